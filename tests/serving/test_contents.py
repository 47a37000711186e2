"""Filters, explanations, columns, documents by id and rerank, as a client meets them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from encoding.encoder import Encoder
from index_format.index import Index
from serving.http.app import make_app
from serving.http.parts import Settings
from serving.rerank import MAX_CHARACTERS
from serving.searcher import Searcher
from tests.serving.vectors import add_texts
from tests.strategies import delete
from tests.waiting import until

LARGE = '{"op":"<","column":"year","value":1' + "0" * 400 + "}"
BEES, CATS, LAVA = "Bees make honey.", "Cats sleep for most of the day.", "Lava flows from the volcano."


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory, encoder: Encoder) -> Iterator[TestClient]:
    """A running server over four documents in three segments, one of them deleted."""
    index = Index.at(tmp_path_factory.mktemp("app") / "index")
    add_texts(index, encoder, {"bees": BEES, "wasps": "Wasps make no honey."}, year=2001, place="hive")
    add_texts(index, encoder, {"cats": CATS, "gone": "Dogs bark."}, year=2002)
    add_texts(index, encoder, {"lava": LAVA}, place="island")
    delete(index, "gone")
    with TestClient(
        make_app(Searcher(index, encoder), "the/index", Settings(deadline_ms=60_000)), raise_server_exceptions=False
    ) as running:
        yield running


def _found(client: TestClient, given_filter: object) -> set[str]:
    response = client.post("/v1/search", json={"query": "honey", "filter": given_filter})
    assert response.status_code == 200, response.text
    return {hit["document_id"] for hit in response.json()["hits"]}


@pytest.mark.parametrize(
    ("given_filter", "ids"),
    [
        (None, {"bees", "wasps", "cats", "lava"}),
        ({"op": "==", "column": "year", "value": 2001}, {"bees", "wasps"}),
        ({"op": "in", "column": "id", "values": ["cats", "lava", "gone"]}, {"cats", "lava"}),
        ({"op": "is_null", "column": "place"}, {"cats"}),
        ({"op": "not", "filter": {"op": "prefix", "column": "place", "value": "h"}}, {"cats", "lava"}),
        ({"op": "range", "column": "year", "least": 2003}, set()),
    ],
)
def test_a_search_finds_within_its_filter(client: TestClient, given_filter: object, ids: set[str]) -> None:
    """Over all segments; matching nothing finds nothing."""
    assert _found(client, given_filter) == ids


@pytest.mark.parametrize(
    ("given_filter", "told"),
    [
        ({"op": "==", "column": "yaer", "value": 1}, "there is no column 'yaer'. There is 'id', 'year', 'place'."),
        ({"op": "==", "column": "year", "value": "2001"}, "column 'year' is int64: expected a number"),
        ({"op": "==", "column": "year; DROP TABLE", "value": 1}, "no column 'year; DROP TABLE'"),
        ({"op": "sql", "column": "year", "value": "1=1"}, "filter"),
        ({"op": "and", "filters": [{"op": "is_null"}] * 101}, "filter"),
        ("year = 2001", "filter"),
        ([], "filter"),
    ],
)
def test_a_filter_that_cannot_be_is_a_422(client: TestClient, given_filter: object, told: str) -> None:
    """With a message that says what there is."""
    response = client.post("/v1/search", json={"query": "honey", "filter": given_filter})
    assert response.status_code == 422
    assert told in response.json()["message"]


def test_a_deep_or_broken_filter_is_a_422(client: TestClient) -> None:
    """Neither nesting nor text that is no text is a fault of the server."""
    deep = '{"op":"not","filter":' * 500 + '{"op":"is_null","column":"year"}' + "}" * 500
    for broken in (
        deep,
        '{"op":"==","column":"place","value":"\\ud800"}',
        '{"op":"<","column":"year","value":1e999}',
        LARGE,
    ):
        body = f'{{"query": "honey", "filter": {broken}}}'
        response = client.post("/v1/search", content=body, headers={"Content-Type": "application/json"})
        assert response.status_code == 422, response.text


def test_an_explained_search_tells_what_matched(client: TestClient) -> None:
    """The word of the question, the word of the passage, and weights that make the score."""
    question = "Who makes honey?"
    answer = client.post("/v1/search", json={"query": question, "k": 2, "explain": True}).json()
    whole, *tokens = answer["explanation"]["query"]
    assert (whole["token"], whole["start"]) == ("[whole text]", None)
    assert [question[token["start"] : token["end"]] for token in tokens] == ["Who", "makes", "honey"]
    hit, explained = answer["hits"][0], answer["explanation"]["hits"][0]
    assert hit["document_id"] == "bees"
    (span,) = explained["matches"][3]["spans"]
    assert (span["field"], hit["text"][span["start"] : span["end"]]) == ("text", "honey")
    assert abs(sum(match["weight"] for match in explained["matches"]) - hit["score"]) < 1e-5


def test_explanations_are_for_few_hits(client: TestClient) -> None:
    """And none unless asked for."""
    refused = client.post("/v1/search", json={"query": "honey", "k": 101, "explain": True})
    assert (refused.status_code, "at most 100 hits" in refused.text) == (422, True)
    two = [{"query": "honey", "k": 60, "explain": True}] * 2
    refused = client.post("/v1/batch-search", json={"queries": two})
    assert (refused.status_code, "at most 100 hits" in refused.text) == (422, True)
    assert client.post("/v1/search", json={"query": "honey"}).json().get("explanation") is None


def test_the_columns_say_what_filters_may_name(client: TestClient) -> None:
    """The id first, each with its kind."""
    answer = client.get("/v1/columns").json()
    assert answer["columns"] == [
        {"name": "id", "kinds": ["text"], "types": ["string"]},
        {"name": "year", "kinds": ["number"], "types": ["int64"]},
        {"name": "place", "kinds": ["text"], "types": ["string"]},
    ]


def test_documents_are_fetched_by_id(client: TestClient) -> None:
    """In the order asked for, each once; what is not there or deleted is left out."""
    answer = client.post("/v1/documents/fetch", json={"ids": ["lava", "gone", "bees", "nobody", "lava"]}).json()
    assert answer["version"] == 4
    assert answer["documents"] == [
        {"document_id": "lava", "title": None, "text": LAVA, "metadata": {"place": "island"}},
        {"document_id": "bees", "title": None, "text": BEES, "metadata": {"year": 2001, "place": "hive"}},
    ]


def test_a_document_and_a_hit_tell_metadata_alike(tmp_path: Path, encoder: Encoder) -> None:
    """Whatever an index holds, what JSON has no word for too."""
    index = Index.at(tmp_path / "index")
    seen = datetime(2026, 1, 2, 3, 4, 5, 678, UTC)
    add_texts(
        index,
        encoder,
        {"bees": BEES},
        seen=seen,
        local=seen.replace(tzinfo=None),
        day=seen.date(),
        hour=seen.time(),
        took=timedelta(days=1, microseconds=1),
        price=Decimal("1.50"),
        share=0.1,
        none=float("nan"),
        large=2**63 - 1,
        parts=[b"\xff\xfe"],
    )
    with TestClient(make_app(Searcher(index, encoder), "the index"), raise_server_exceptions=False) as client:
        (hit,) = client.post("/v1/search", json={"query": "honey"}).json()["hits"]
        answer = client.post("/v1/documents/fetch", json={"ids": ["bees"]})
    assert answer.status_code == 200, answer.text
    assert answer.json()["documents"] == [{name: hit[name] for name in ("document_id", "title", "text", "metadata")}]
    assert hit["metadata"]["local"] == "2026-01-02T03:04:05.000678"


def test_documents_columns_and_texts_are_of_the_version_that_was_asked_for(client: TestClient) -> None:
    """Exactly one, or at least one, so that what was just written is read by its id; both at once is a mistake."""
    ids = {"ids": ["gone", "lava"]}

    def fetched(**more: int) -> tuple[int, list[str]]:
        answer = client.post("/v1/documents/fetch", json={**ids, **more}).json()
        return answer["version"], [one["document_id"] for one in answer["documents"]]

    assert fetched(version=2) == (2, ["gone"])
    assert fetched(min_version=4) == (4, ["lava"])
    texts = {"query": "honey", "texts": [BEES]}
    assert client.post("/v1/rerank", json={**texts, "version": 3}).json()["version"] == 3
    assert client.get("/v1/columns?version=2").json()["version"] == 2
    assert client.get("/v1/columns?min_version=3").json()["version"] == 4
    assert client.post("/v1/encode", json={"texts": ["honey"]}).json()["version"] == 4
    for path, body in (("documents/fetch", ids), ("rerank", texts), ("search", {"query": "honey"})):
        refused = client.post(f"/v1/{path}", json={**body, "version": 3, "min_version": 3})
        assert (refused.status_code, refused.json()["detail"][0]["loc"]) == (422, ["body", "min_version"])
        assert client.post(f"/v1/{path}", json={**body, "version": 9}).status_code == 404
        late = client.post(f"/v1/{path}", json={**body, "min_version": 9, "timeout_ms": 100})
        assert (late.status_code, late.json()["code"]) == (503, "version_not_served")
    assert client.get("/v1/columns?version=3&min_version=3").status_code == 422
    assert client.get("/v1/columns?versoin=3").status_code == 422


def test_putting_in_order_ends_at_its_deadline(client: TestClient) -> None:
    """504, the work stops before its next batch, and the next request finds it free."""
    texts = [f"{number} " + "words of a text " * 30 for number in range(90)]
    late = client.post("/v1/rerank", json={"query": "honey", "texts": texts, "timeout_ms": 50})
    assert (late.status_code, late.json()["code"]) == (504, "deadline_exceeded")
    short = {"query": "honey", "texts": [BEES]}
    until(lambda: client.post("/v1/rerank", json=short).status_code != 503, "the next request finds it free")
    assert client.post("/v1/rerank", json=short).status_code == 200


@pytest.mark.parametrize("body", [{"ids": []}, {"ids": ["a"] * 1001}, {"ids": [1]}, {"ids": ["\ud800"]}, {}])
def test_ids_that_cannot_be_are_a_422(client: TestClient, body: object) -> None:
    """Too many, of another type, or no text."""
    headers = {"Content-Type": "application/json"}
    assert client.post("/v1/documents/fetch", content=json.dumps(body), headers=headers).status_code == 422


def test_texts_are_put_in_order(client: TestClient) -> None:
    """Best first, with the span of the passage that made the score; an empty text has none."""
    long = "Nothing of the kind is told here. " * 100 + BEES
    body = {"query": "Who makes honey?", "texts": [CATS, "", long, BEES, BEES]}
    answer = client.post("/v1/rerank", json=body).json()["texts"]
    assert [one["position"] for one in answer] == [3, 4, 2, 0]
    assert answer[0]["score"] == answer[1]["score"] > answer[2]["score"] > answer[3]["score"]
    assert answer[2]["start"] > 0
    assert BEES in long[answer[2]["start"] : answer[2]["end"]]


def test_texts_to_put_in_order_are_bounded(client: TestClient) -> None:
    """By number and by characters together."""
    for texts in ([], ["a"] * 1001, ["a" * MAX_CHARACTERS, "b"]):
        assert client.post("/v1/rerank", json={"query": "honey", "texts": texts}).status_code == 422

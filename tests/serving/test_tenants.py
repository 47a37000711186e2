"""A key of one tenant sees that tenant's documents and no others, by any route."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from encoding.encoder import Encoder
from index_format.filters import Comparison
from index_format.index import Index
from serving.http.app import make_app
from serving.http.parts import Settings
from serving.http.routes import ScopedRoute
from serving.keys import KeyRing, make_key, write_keys
from serving.searcher import Searcher
from tests.serving.vectors import add_texts
from tests.strategies import delete

SECRET = "hazelnut"  # stands in every id, text, value and column of the other tenant alone
QUERY = {"query": f"Who hides the {SECRET} in the red house?"}
EVERYTHING = {"op": "or", "filters": [{"op": "is_null", "column": "id"}, {"op": "!=", "column": "id", "value": ""}]}
WIDE = [
    None,
    EVERYTHING,
    {"op": "==", "column": "owner", "value": SECRET},
    {"op": "not", "filter": {"op": "==", "column": "owner", "value": "red"}},
    {"op": "or", "filters": [EVERYTHING, {"op": "==", "column": "owner", "value": SECRET}]},
    {"op": "is_null", "column": "owner"},
    {"op": "prefix", "column": "id", "value": SECRET},
]
REQUESTS: dict[tuple[str, str], list[dict[str, object]]] = {
    ("POST", "/v1/search"): [
        {**QUERY, "filter": one, "recall": recall, "explain": True} for one in WIDE for recall in ("exact", "fast")
    ]
    + [{**QUERY, "version": 1}, {**QUERY, "offset": 1, "fields": ["text"]}]
    + [{**QUERY, "filter": one, "hybrid": {"by": by}} for one in WIDE for by in ("rank", "weight")],
    ("POST", "/v1/batch-search"): [
        {"queries": [{**QUERY, "filter": one} for one in WIDE]},
        {"queries": [QUERY], "version": 1},
    ],
    ("POST", "/v1/documents/fetch"): [{"ids": [f"{SECRET}-1", f"{SECRET}-2", "red-1", "nobody's"]}],
    ("POST", "/v1/rerank"): [{"query": "red", "texts": ["red", "blue"]}],
    ("POST", "/v1/encode"): [{"texts": ["red"]}],
    ("GET", "/v1/index"): [{}],
    ("GET", "/v1/versions"): [{}],
    ("GET", "/v1/columns"): [{}],
}


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory, encoder: Encoder) -> Iterator[tuple[TestClient, dict[str, str]]]:
    """A server with keys over the documents of two tenants and of none, and the keys by name."""
    folder = tmp_path_factory.mktemp("tenants")
    index = Index.at(folder / "index")
    add_texts(index, encoder, {"red-1": "The red house.", "red-2": "A red door."}, owner="red", note="red")
    theirs = {f"{SECRET}-{number}": f"The {SECRET} hides in house {number}." for number in range(6)}
    add_texts(index, encoder, theirs, owner=SECRET, note=SECRET, **{f"{SECRET}s": 3})
    add_texts(index, encoder, {"nobody's": f"A {SECRET} of nobody in the red house."}, note=SECRET)
    delete(index, "red-2")
    made = {"red": make_key("red", ["search"], "red"), "blue": make_key("blue", ["search"], "blue")}
    made["whole"] = make_key("whole", ["search"])
    write_keys(folder / "keys.json", [key for key, _ in made.values()])
    settings = Settings(tenant_column="owner")
    with TestClient(
        make_app(Searcher(index, encoder), "there", settings, keys=KeyRing(folder / "keys.json")),
        raise_server_exceptions=False,
    ) as client:
        yield client, {name: f"Bearer {secret}" for name, (_, secret) in made.items()}


def _ask(client: TestClient, key: str, method: str, path: str, body: dict[str, object]) -> tuple[int, str]:
    sent = {"json": body} if method == "POST" else {}
    response = client.request(method, path, headers={"Authorization": key}, **sent)
    return response.status_code, response.text


def test_every_route_of_search_is_asked(app) -> None:
    """A route that comes new has to show here what it gives to a tenant."""
    client, _ = app
    routes = [one for one in client.app.routes if isinstance(one, ScopedRoute) and one.needed_scope == "search"]
    assert {(method, one.path) for one in routes for method in one.methods} == set(REQUESTS)


@pytest.mark.parametrize("route", list(REQUESTS), ids=lambda route: route[1])
def test_no_route_shows_a_document_of_others(app, route: tuple[str, str]) -> None:
    """Neither id nor text nor value, whatever the filter and the version; for everybody else they are there."""
    client, keys = app
    for body in REQUESTS[route]:
        status, text = _ask(client, keys["red"], *route, body)
        assert (status, SECRET in text) == (200, False), text
    whole = "".join(_ask(client, keys["whole"], *route, body)[1] for body in REQUESTS[route])
    assert (SECRET in whole) == (route[1] not in ("/v1/rerank", "/v1/encode", "/v1/index", "/v1/versions"))


def test_a_tenant_finds_its_own(app) -> None:
    """All of it that is live, in the version asked for."""
    client, keys = app

    def found(**more: object) -> set[str]:
        status, text = _ask(client, keys["red"], "POST", "/v1/search", {**QUERY, **more})
        assert status == 200
        return {hit["document_id"] for hit in json.loads(text)["hits"]}

    assert found() == {"red-1"}
    assert found(version=1) == {"red-1", "red-2"}
    assert found(filter={"op": "==", "column": "note", "value": SECRET}) == set()


def test_a_tenant_without_documents_finds_nothing(app) -> None:
    """Not what is nobody's, either."""
    client, keys = app
    assert json.loads(_ask(client, keys["blue"], "POST", "/v1/search", QUERY)[1])["hits"] == []
    fetched = _ask(client, keys["blue"], "POST", "/v1/documents/fetch", {"ids": ["red-1", "nobody's"]})[1]
    assert json.loads(fetched)["documents"] == []


def test_a_tenant_is_not_told_how_many_documents_others_have(app) -> None:
    """Counts of the whole index are for keys of the whole index."""
    client, keys = app
    for path in ("/v1/index", "/v1/versions"):
        theirs, whole = (json.loads(_ask(client, keys[name], "GET", path, {})[1]) for name in ("red", "whole"))
        for told, known in zip(theirs.get("versions", [theirs]), whole.get("versions", [whole]), strict=True):
            assert (told["documents"], told["passages"]) == (None, None)
            assert known["documents"] > 0


def test_a_tenant_knows_its_own_columns_only(app) -> None:
    """Those in which its live documents have a value; a filter that names others is told they are not there."""
    client, keys = app

    def names(key: str) -> list[str]:
        columns = json.loads(_ask(client, keys[key], "GET", "/v1/columns", {})[1])["columns"]
        return [one["name"] for one in columns]

    assert names("red") == ["id", "owner", "note"]
    assert names("blue") == ["id"]
    assert f"{SECRET}s" in names("whole")
    for column in (f"{SECRET}s", "no such column"):
        body = {**QUERY, "filter": {"op": "is_null", "column": column}}
        for path, asked in (("/v1/search", body), ("/v1/batch-search", {"queries": [body]})):
            status, text = _ask(client, keys["red"], "POST", path, asked)
            told = f"filter: there is no column {column!r}. There is 'id', 'owner', 'note'."
            assert (status, json.loads(text)["message"]) == (422, told)


def test_of_a_nested_column_a_tenant_is_told_only_the_kind(tmp_path: Path, encoder: Encoder) -> None:
    """The fields inside may be another's."""
    index = Index.at(tmp_path / "index")
    add_texts(index, encoder, {"red-1": "The red house."}, owner="red", more={"size": 3})
    red = Comparison(op="==", column="owner", value="red")
    assert Searcher(index, encoder).snapshot.columns["more"].types == ("struct<size: int64>",)
    assert Searcher(index, encoder).snapshot.columns_of(red)["more"].types == ("struct",)


def test_an_index_without_the_column_shows_a_tenant_nothing(tmp_path: Path, encoder: Encoder) -> None:
    """The search is refused: nobody said whose the documents are."""
    index = Index.at(tmp_path / "index")
    add_texts(index, encoder, {"a": "A red house."}, theirs=1)
    key, secret = make_key("red", ["search"], "red")
    write_keys(tmp_path / "keys.json", [key])
    ring = KeyRing(tmp_path / "keys.json")
    with TestClient(make_app(Searcher(index, encoder), "there", Settings(tenant_column="owner"), keys=ring)) as client:
        headers = {"Authorization": f"Bearer {secret}"}
        refused = client.post("/v1/search", json=QUERY, headers=headers)
        assert (refused.status_code, "no column 'owner'. There is 'id'." in refused.text) == (422, True)
        fetched = client.post("/v1/documents/fetch", json={"ids": ["a"]}, headers=headers)
        assert (fetched.status_code, "theirs" in fetched.text) == (422, False)
        assert client.get("/v1/columns", headers=headers).status_code == 422

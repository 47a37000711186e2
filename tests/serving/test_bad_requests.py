"""Requests that are none: which field is wrong, never a trace, and no answer that is larger than it must be."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from encoding.encoder import Encoder
from index_format.index import Index
from serving.http.app import make_app
from serving.http.errors import MOST_FAULTS
from serving.http.schemas import MAX_QUERY_CHARACTERS
from serving.search import MAX_K
from serving.searcher import Searcher
from tests.serving.vectors import add_texts


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory, encoder: Encoder) -> Iterator[TestClient]:
    """A running server of one document."""
    index = Index.at(tmp_path_factory.mktemp("requests") / "index")
    add_texts(index, encoder, {"bees": "Bees make honey."}, legs=6)
    with TestClient(make_app(Searcher(index, encoder), "the/index"), raise_server_exceptions=False) as running:
        yield running


def _refusal(client: TestClient, body: object) -> list[dict[str, Any]]:
    """The details of a 422 to a request with this body."""
    response = client.post("/v1/search", json=body)
    assert response.status_code == 422
    assert "Traceback" not in response.text
    details: list[dict[str, Any]] = response.json()["detail"]
    return details


def _post(client: TestClient, body: bytes) -> tuple[int, str]:
    response = client.post("/v1/search", content=body, headers={"Content-Type": "application/json"})
    return response.status_code, response.text


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"query": "bees", "k": 0}, "k"),
        ({"query": "bees", "k": -1}, "k"),
        ({"query": "bees", "k": MAX_K + 1}, "k"),
        ({"query": "bees", "k": 10**30}, "k"),
        ({"query": "bees", "k": 1.5}, "k"),
        ({"query": "bees", "k": "ten"}, "k"),
        ({"query": "bees", "k": None}, "k"),
        ({"query": ""}, "query"),
        ({"query": " \n\t\u00a0\u2003"}, "query"),
        ({"query": "b" * (MAX_QUERY_CHARACTERS + 1)}, "query"),
        ({"query": 5}, "query"),
        ({"query": ["bees"]}, "query"),
        ({"query": None}, "query"),
        ({"k": 3}, "query"),
        ({}, "query"),
        ({"query": "bees", "hybrid": {}, "k": 10, "offset": 91}, "hybrid"),
        ({"query": "bees", "top": 3}, "top"),
        ({"query": "bees", "recall": "perfect"}, "recall"),
        ({"query": "bees", "recall": 0.9}, "recall"),
        ({"query": "bees", "hybrid": "rank"}, "hybrid"),
        ({"vectors": [[0.0] * 384], "hybrid": {}}, "query"),
    ],
)
def test_a_bad_request_is_told_which_field_is_wrong(client: TestClient, body: dict[str, object], field: str) -> None:
    """Status 422, one complaint, and the field in it."""
    (detail,) = _refusal(client, body)
    assert detail["loc"] == ["body", field]
    assert detail["msg"]


MANY_FAULTS = {"op": "in", "column": "legs", "values": [{}] * 10_000}


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"vectors": [["a"] * 1024] * 64}, 1),
        (
            {
                "query": "a",
                "filter": {"op": "or", "filters": [{"op": "in", "column": "b", "values": [{}] * 10_000}] * 9},
            },
            9,
        ),
        ({"query": "a"} | {f"unknown-{number}": 0 for number in range(900)}, MOST_FAULTS),
        ({"query": "a"} | {f"unknown-{number}": 0 for number in range(5_000)}, 1),
    ],
)
def test_a_request_with_many_faults_is_told_some(client: TestClient, body: dict[str, object], told: int) -> None:
    """Of a list the first; so a small request never has an answer that is many times as large."""
    refused = client.post("/v1/search", json=body)
    assert refused.status_code == 422
    assert 1 <= len(refused.json()["detail"]) <= told
    assert len(refused.content) < 10_000


@pytest.mark.parametrize("body", [b"", b"{", b'{"query": }', b"null", b"[]", b'"bees"', b"5", b"bees"])
def test_a_body_that_is_no_json_object_is_refused(client: TestClient, body: bytes) -> None:
    """Status 422 and no trace."""
    status, text = _post(client, body)
    assert status == 422
    assert json.loads(text)["detail"][0]["loc"][0] == "body"
    assert "Traceback" not in text


@pytest.mark.parametrize("path", ["/v1/search", "/v1/batch-search", "/v1/encode", "/v1/rerank"])
def test_a_body_that_does_not_say_that_it_is_json_is_refused(client: TestClient, path: str) -> None:
    """A page of another site may send such ones; JSON by another name will do."""
    body = {"/v1/search": '{"query": "bees"}', "/v1/batch-search": '{"queries": [{"query": "bees"}]}'}
    content = body.get(path, '{"texts": ["bees"]}' if path == "/v1/encode" else '{"query": "bees", "texts": ["a"]}')
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=a", ""):
        refused = client.post(path, content=content, headers={"Content-Type": kind})
        assert (refused.status_code, refused.json()["code"]) == (422, "invalid_request"), kind
    for kind in ("application/json; charset=utf-8", "Application/JSON", "application/vnd.api+json"):
        assert client.post(path, content=content, headers={"Content-Type": kind}).status_code == 200, kind


@pytest.mark.parametrize("body", [b'{"query": "\xff"}', b"[" * 100_000, b'{"query": "a", "k": ' + b"9" * 5000 + b"}"])
def test_a_body_that_no_parser_takes_is_refused(client: TestClient, body: bytes) -> None:
    """Bytes that are not UTF-8, deep nesting and endless numbers: the client's fault, without a trace."""
    status, text = _post(client, body)
    assert status in (400, 422)
    assert "Traceback" not in text


@pytest.mark.parametrize("body", [rb'{"query": "\ud800"}', b'{"query": "a", "k": NaN}', b'{"query": "a", "k": 1e999}'])
def test_a_value_that_json_cannot_carry_back_is_refused(client: TestClient, body: bytes) -> None:
    """Half a surrogate pair, not a number, infinity: the client's fault too."""
    status, text = _post(client, body)
    assert status in (400, 422)
    assert "Traceback" not in text

"""Who is let in: every route with every kind of key, over HTTP."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import msgspec
import pytest
from fastapi.testclient import TestClient

from encoding.encoder import Encoder
from index_format.errors import InputError
from index_format.filters import Filter
from index_format.index import Index
from serving import keys
from serving.http.app import make_app
from serving.http.logs import JsonLines
from serving.http.parts import NewDocument, Settings, Written
from serving.http.routes import SCOPES, ScopedRoute, needs
from serving.keys import Key, KeyRing, KeyScope, change_keys, make_key, read_keys, write_keys
from serving.searcher import Searcher
from tests.serving.vectors import add_texts

BODIES: dict[str, object] = {
    "/v1/search": {"query": "honey"},
    "/v1/batch-search": {"queries": [{"query": "honey"}]},
    "/v1/encode": {"texts": ["honey"]},
    "/v1/documents/fetch": {"ids": ["bees"]},
    "/v1/rerank": {"query": "honey", "texts": ["Bees make honey."]},
    "/v1/documents": {"documents": [{"id": "a", "text": "b"}]},
    "/v1/documents/delete": {"ids": ["a"]},
}
PATHS = {"/docs/{name}": "/docs/swagger-ui.css"}


class NoChange:
    """A writer for which there is nothing to do: this file asks only who gets to it."""

    def add(self, documents: list[NewDocument]) -> Written:
        return Written(version=1, unchanged=len(documents))

    def delete(self, ids: list[str]) -> Written:
        return Written(version=1, unchanged=len(ids))

    def delete_matching(self, matching: Filter) -> Written:  # noqa: ARG002
        return Written(version=1)


@dataclass(frozen=True)
class Guarded:
    """A server that asks for keys, its file of keys, and one secret of each kind."""

    client: TestClient
    file: Path
    secrets: dict[str, str]

    def ask(self, route: ScopedRoute, headers: dict[str, str], query: str = "") -> httpx.Response:
        (method,) = route.methods
        path = PATHS.get(route.path, route.path) + query
        return self.client.request(method, path, json=BODIES.get(route.path), headers=headers)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, encoder: Encoder) -> Iterator[Guarded]:
    """One key for each scope, one that expired, and one that was revoked."""
    folder = tmp_path_factory.mktemp("keys")
    index = Index.at(folder / "index")
    add_texts(index, encoder, {"bees": "Bees make honey."})
    wanted: dict[str, list[KeyScope]] = {"search": ["search"], "write": ["write"], "admin": ["admin"]}
    made = {name: make_key(name, scopes) for name, scopes in wanted.items()}
    made["expired"] = make_key("expired", ["search", "write", "admin"], days=0)
    made["revoked"] = make_key("revoked", ["search", "write", "admin"])
    write_keys(folder / "keys.json", [key for name, (key, _) in made.items() if name != "revoked"])
    app = make_app(Searcher(index, encoder), "the/index", keys=KeyRing(folder / "keys.json"), writer=NoChange())
    with TestClient(app, raise_server_exceptions=False) as client:
        yield Guarded(client, folder / "keys.json", {name: secret for name, (_, secret) in made.items()})


def _routes(guarded: Guarded) -> list[ScopedRoute]:
    return [route for route in guarded.client.app.routes if isinstance(route, ScopedRoute)]  # type: ignore[attr-defined]


def test_every_route_declares_its_scope(guarded: Guarded) -> None:
    """And one that does not cannot be made."""
    assert len(_routes(guarded)) == len(guarded.client.app.routes)  # type: ignore[attr-defined]
    assert {route.needed_scope for route in _routes(guarded)} == set(SCOPES)
    for extra in (None, {}, needs("everything")):  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="declare its scope"):
            ScopedRoute("/v1/new", lambda: None, openapi_extra=extra)


@pytest.mark.parametrize("kind", ["search", "write", "admin"])
def test_a_key_opens_the_routes_of_its_scope_and_no_others(guarded: Guarded, kind: str) -> None:
    """200 where the scope is the key's, 403 elsewhere; routes without a scope are open."""
    for route in _routes(guarded):
        response = guarded.ask(route, {"Authorization": f"Bearer {guarded.secrets[kind]}"})
        allowed = route.needed_scope in ("none", kind)
        assert response.is_success if allowed else response.status_code == 403, (route.path, response.text)


def test_who_has_no_valid_key_is_refused_everywhere(guarded: Guarded) -> None:
    """No key, a malformed one, a wrong, expired or revoked one, one in a query or a cookie: 401, before any reading."""
    good = guarded.secrets["admin"]
    wrong = good[:-1] + ("A" if good[-1] != "A" else "B")
    tried: list[tuple[dict[str, str], str]] = [
        ({}, ""),
        ({}, f"?key={good}&api_key={good}&access_token={good}"),
        ({"Cookie": f"key={good}"}, ""),
        ({"X-Api-Key": good}, ""),
    ]
    malformed = [good, "Bearer", "Bearer ", f"Basic {good}", f"Bearer {good} {good}", f"Bearer x{good}", "Bearer \xe9"]
    values = [*malformed, *(f"Bearer {one}" for one in (wrong, guarded.secrets["expired"], guarded.secrets["revoked"]))]
    tried += [({"Authorization": value.encode("latin-1").decode("latin-1")}, "") for value in values if value.isascii()]
    for route in _routes(guarded):
        for headers, query in tried:
            response = guarded.ask(route, headers, query)
            if route.needed_scope == "none":
                assert response.is_success, (route.path, headers)
            else:
                assert (response.status_code, response.json()["code"]) == (401, "unauthorized"), (route.path, headers)
                assert response.headers["www-authenticate"] == "Bearer"


def test_who_has_no_key_learns_nothing_of_the_body(guarded: Guarded) -> None:
    """A malformed request is refused for its key, not for what is wrong with it."""
    response = guarded.client.post("/v1/search", content=b"{", headers={"Content-Type": "application/json"})
    assert response.status_code == 401


def test_keys_change_without_a_restart(guarded: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    """Added, revoked, and while the file is broken the keys before it stay."""
    monkeypatch.setattr(keys, "_LOOK_SECONDS", 0.0)
    before = read_keys(guarded.file)
    key, secret = make_key("new", ["search"])

    def status() -> int:
        header = {"Authorization": f"Bearer {secret}"}
        return guarded.client.post("/v1/search", json={"query": "honey"}, headers=header).status_code

    assert status() == 401
    write_keys(guarded.file, [*before, key])
    assert status() == 200
    guarded.file.write_text("[{")
    assert status() == 200
    write_keys(guarded.file, before)
    assert status() == 401


def test_a_file_of_keys_holds_no_key(tmp_path: Path) -> None:
    """Only hashes, and only its owner may read it."""
    key, secret = make_key("ours", ["search"])
    write_keys(tmp_path / "keys.json", [key])
    assert secret not in (tmp_path / "keys.json").read_text()
    assert (tmp_path / "keys.json").stat().st_mode & 0o777 == 0o600
    assert read_keys(tmp_path / "keys.json") == [key]


@pytest.mark.parametrize("content", [b"", b"{}", b'[{"id": "a"}]', b"\xff", b'[{"id": "\xff"}]', b"[1]"])
def test_a_file_that_holds_no_keys_is_refused(tmp_path: Path, content: bytes) -> None:
    """At the start, where nobody would notice an open door later."""
    (tmp_path / "keys.json").write_bytes(content)
    with pytest.raises(InputError, match=r"keys\.json: not a file of keys"):
        KeyRing(tmp_path / "keys.json")


def test_neither_texts_nor_keys_are_logged(guarded: Guarded, caplog: pytest.LogCaptureFixture) -> None:
    """Answers, refusals and faults leave one JSON line each, with times and the key's id."""
    canary, good = "canary-in-a-coal-mine", guarded.secrets["search"]
    header = {"Authorization": f"Bearer {good}", "X-Request-Id": "ours-1"}
    with caplog.at_level(logging.INFO, "colonnade"):
        for body in ({"query": canary}, {"query": canary, "k": canary}, {canary: 1}, {"vectors": [[1.0]]}):
            guarded.client.post("/v1/search", json=body, headers=header)
        guarded.client.post("/v1/search", json={"query": canary}, headers={"Authorization": f"Bearer {canary}"})
        guarded.client.get("/v1/index", headers={**header, "X-Request-Id": f"{canary} "})
    printed = [JsonLines().format(record) for record in caplog.records]
    lines = [json.loads(line) for line in printed if '"route"' in line]
    assert canary not in "".join(printed)
    assert good not in "".join(printed)
    assert [line["status"] for line in lines] == [200, 422, 422, 422, 401, 200]
    assert lines[0]["request_id"] == "ours-1"
    assert {"version", "k", "hits", "queue_ms", "encode_ms", "search_ms", "total_ms", "key"} <= set(lines[0])


def test_every_route_logs_its_version_and_times_and_no_text(guarded: Guarded, caplog: pytest.LogCaptureFixture) -> None:
    """One line each, whatever the body held; of an unexpected error kind and place alone, also by uvicorn's logger."""
    secrets = {"search": "search", "write": "write", "admin": "admin"}
    stages = {
        "/v1/search": {"queue_ms", "encode_ms", "search_ms"},
        "/v1/batch-search": {"queue_ms", "encode_ms", "search_ms"},
        "/v1/encode": {"queue_ms", "encode_ms"},
        "/v1/rerank": {"rerank_ms"},
        "/v1/documents/fetch": {"read_ms"},
    }
    with caplog.at_level(logging.INFO, "colonnade"):
        for route in _routes(guarded):
            if route.needed_scope != "none":
                header = {"Authorization": f"Bearer {guarded.secrets[secrets[route.needed_scope]]}"}
                assert guarded.ask(route, header).is_success
    lines = [record.line for record in caplog.records if hasattr(record, "line")]
    assert {line["route"] for line in lines} == {one.path for one in _routes(guarded) if one.needed_scope != "none"}
    for line in lines:
        assert {"request_id", "status", "key", "total_ms"} <= set(line)
        assert stages.get(line["route"], set()) <= set(line)
        assert line["route"] == "/metrics" or line["version"] == 1
    printed = "".join(JsonLines().format(record) for record in caplog.records)
    assert "honey" not in printed
    assert not any(secret in printed for secret in guarded.secrets.values())


def test_the_trace_that_others_log_is_told_without_its_message() -> None:
    """uvicorn logs an error with its trace, whose message may be a query."""
    try:
        try:
            raise KeyError("canary")
        except KeyError as error:
            raise ValueError("canary, too") from error
    except ValueError as error:
        logged = (type(error), error, error.__traceback__)
    record = logging.LogRecord("uvicorn.error", logging.ERROR, "a.py", 1, "Exception in application", (), logged)
    told = json.loads(JsonLines().format(record))
    assert "canary" not in json.dumps(told)
    assert re.fullmatch(
        r"ValueError at test_the\S+ of test_keys.py; caused by KeyError at test_the\S+ .*", told["error"]
    )


def test_a_key_that_is_revoked_while_the_server_starts_is_not_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between reading the file and remembering which state of it that was."""
    path = tmp_path / "keys.json"
    key, secret = make_key("us", ["search"])
    write_keys(path, [key])

    def read_then_revoke(path: Path) -> list[Key]:
        found = read_keys(path)
        write_keys(path, [])
        return found

    monkeypatch.setattr("serving.keys._LOOK_SECONDS", 0)
    with monkeypatch.context() as patch:
        patch.setattr("serving.keys.read_keys", read_then_revoke)
        ring = KeyRing(path)
    assert ring.find(secret) is None


def test_a_file_of_keys_keeps_its_mode(tmp_path: Path) -> None:
    """And its owner: who serves must still read it when somebody else changed it."""
    path = tmp_path / "keys.json"
    write_keys(path, [])
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o640)
    write_keys(path, [])
    assert path.stat().st_mode & 0o777 == 0o640


def test_keys_that_are_made_at_once_are_all_kept(tmp_path: Path) -> None:
    """Each change reads what the one before it wrote."""
    file = tmp_path / "new" / "keys.json"
    made = [make_key(str(number), ["search"])[0] for number in range(40)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: change_keys(file, lambda keys: [*keys, key]), made))
    assert {key.id for key in read_keys(file)} == {key.id for key in made}
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: change_keys(file, lambda keys: [one for one in keys if one != key]), made[1:]))
    assert read_keys(file) == made[:1]


def test_keys_are_made_listed_and_revoked(guarded: Guarded, tmp_path: Path) -> None:
    """A key of a tenant is no administrator's."""
    with pytest.raises(InputError, match="may search and write, and not admin"):
        make_key("theirs", ["search", "admin"], tenant="them")
    with pytest.raises(InputError, match="name at least one of"):
        make_key("nobody's", [])
    key, _ = make_key("theirs", ["search"], tenant="them", days=1)
    assert not key.is_expired()
    assert msgspec.structs.replace(key, expires_at=int(time.time())).is_expired()


def test_a_tenant_never_sees_another(tmp_path: Path, encoder: Encoder) -> None:
    """Whatever it asks for: search, a filter that says otherwise, a batch, a document by its id."""
    index = Index.at(tmp_path / "index")
    add_texts(index, encoder, {"ours": "Our bees make honey.", "ours too": "We sell honey."}, owner="us")
    add_texts(index, encoder, {"theirs": "Their bees make honey."}, owner="them")
    key, secret = make_key("us", ["search"], tenant="us")
    write_keys(tmp_path / "keys.json", [key])
    ring, header = KeyRing(tmp_path / "keys.json"), {"Authorization": f"Bearer {secret}"}
    theirs = {"op": "==", "column": "owner", "value": "them"}
    either = {"op": "or", "filters": [theirs, {"op": "==", "column": "owner", "value": "us"}]}
    settings = Settings(tenant_column="owner")
    with TestClient(make_app(Searcher(index, encoder), "i", settings, keys=ring), headers=header) as client:

        def found(**more: object) -> set[str]:
            hits = client.post("/v1/search", json={"query": "honey", **more}).json()["hits"]
            return {hit["document_id"] for hit in hits}

        assert found() == found(recall="exact", filter=either) == found(min_version=2) == {"ours", "ours too"}
        assert found(filter=theirs) == found(filter={"op": "not", "filter": either}) == set()
        batch = client.post("/v1/batch-search", json={"queries": [{"query": "honey", "filter": theirs}] * 2}).json()
        assert [answer["hits"] for answer in batch["answers"]] == [[], []]
        fetched = client.post("/v1/documents/fetch", json={"ids": ["ours", "theirs"]}).json()["documents"]
        assert [document["document_id"] for document in fetched] == ["ours"]


def test_a_tenants_key_opens_nothing_where_tenants_are_not_held_apart(tmp_path: Path, encoder: Encoder) -> None:
    """A server that was not told the column must not answer as if it had been."""
    index = Index.at(tmp_path / "index")
    add_texts(index, encoder, {"ours": "Our bees make honey."}, owner="us")
    key, secret = make_key("us", ["search"], tenant="us")
    write_keys(tmp_path / "keys.json", [key])
    app = make_app(Searcher(index, encoder), "i", keys=KeyRing(tmp_path / "keys.json"))
    with TestClient(app, headers={"Authorization": f"Bearer {secret}"}) as client:
        assert client.post("/v1/search", json={"query": "honey"}).json()["code"] == "no_tenants"

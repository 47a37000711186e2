"""The server as a client meets it: answers, health, metrics, and the search page."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Iterator, Sequence
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from fastapi.testclient import TestClient

from colonnade.server import Place
from encoding.encoder import Encoder
from index_format.index import Index
from index_format.manifest import Manifest
from index_format.store import MemoryStore
from serving.http.app import make_app
from serving.http.pages import STATIC
from serving.http.parts import Settings
from serving.http.schemas import MAX_QUERY_CHARACTERS
from serving.keys import KeyRing, make_key, write_keys
from serving.search import MAX_K
from serving.searcher import Searcher
from tests.prefect_server import PROJECT
from tests.serving.running import running
from tests.serving.vectors import Vectors, add_texts, reindexed
from tests.waiting import until

SECRET = "kept to ourselves"
TEXTS = {
    "bees": "Bees make honey.",
    "cats": "Cats sleep for most of the day.",
    "lava": "Lava flows from the volcano.",
    "<b>ids</b>": "<script>alert('not run')</script>",
}


@pytest.fixture(scope="module")
def searcher(tmp_path_factory: pytest.TempPathFactory, encoder: Encoder) -> Searcher:
    """Of four documents."""
    index = Index.at(tmp_path_factory.mktemp("app") / "index")
    add_texts(index, encoder, TEXTS, year=2001)
    return Searcher(index, encoder)


@pytest.fixture(scope="module")
def client(searcher: Searcher) -> Iterator[TestClient]:
    """A running server."""
    with TestClient(make_app(searcher, "the/index"), raise_server_exceptions=False) as running:
        yield running


def test_a_search_answers_with_hits_best_first(client: TestClient) -> None:
    """Each hit has its document, span, text, metadata and score; the answer names its version and times."""
    response = client.post("/v1/search", json={"query": "Who makes honey?", "k": 2})
    assert response.status_code == 200
    answer = response.json()
    assert set(answer) == {"version", "hits", "recall", "scored", "queue_ms", "encode_ms", "search_ms", "explanation"}
    assert answer["version"] == 1
    best, second = answer["hits"]
    assert best["score"] > second["score"]
    del best["score"]
    assert best == {
        "document_id": "bees",
        "passage": 0,
        "start": 0,
        "end": 16,
        "title": None,
        "text": "Bees make honey.",
        "metadata": {"year": 2001},
    }


def test_a_hybrid_search_tells_both_sides_of_each_hit(client: TestClient) -> None:
    """By rank and by weight, alone and among several; and a plain search says nothing of sides."""
    for hybrid, score in (({}, 1 / 61), ({"by": "weight", "weight": 0.25}, 1.0)):
        answer = client.post("/v1/search", json={"query": "Who makes honey?", "k": 2, "hybrid": hybrid}).json()
        best, second = answer["hits"]
        assert best["document_id"] == "bees"
        assert (best["fused"]["maxsim_rank"], best["fused"]["bm25_rank"]) == (1, 1)
        assert best["score"] == pytest.approx(score)
        assert (second["fused"]["bm25"], second["fused"]["bm25_rank"]) == (0.0, None)
    queries = [{"query": "Who makes honey?", "k": 2, "hybrid": hybrid}, {"query": "Who makes honey?", "fields": []}]
    one, plain = client.post("/v1/batch-search", json={"queries": queries}).json()["answers"]
    assert one["hits"] == answer["hits"]
    assert set(plain["hits"][0]) == {"document_id", "passage", "score", "start", "end"}
    described = client.get("/openapi.json").json()["components"]["schemas"]["FoundHit"]
    assert set(described["required"]) == set(plain["hits"][0])
    assert set(described["properties"]) == set(best)


def test_questions_asked_together_share_a_pass_and_have_the_answers_that_each_has_alone(
    client: TestClient, searcher: Searcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By their vectors, as those of a text depend on its batch; one of them has a filter, and so a pass of its own."""
    scorer, shared = searcher.snapshot.scorer, []
    score = scorer.best_of_several

    def count(queries: list[Any], *given: Any, **how: Any) -> Any:
        shared.append(len(queries))
        return score(queries, *given, **how)

    monkeypatch.setattr(scorer, "sharing", lambda counts: [range(len(counts))])
    monkeypatch.setattr(scorer, "best_of_several", count)
    texts = ["honey", "sleep", "volcano", "bees", "day"]
    vectors = client.post("/v1/encode", json={"texts": texts}).json()["vectors"]
    queries: list[dict[str, Any]] = [{"vectors": one, "k": 1 + place} for place, one in enumerate(vectors)]
    queries[1]["filter"] = {"op": "in", "column": "id", "values": ["cats", "bees"]}
    answers = client.post("/v1/batch-search", json={"queries": queries}).json()["answers"]
    alone = [client.post("/v1/search", json=query).json() for query in queries]
    assert [one["hits"] for one in answers] == [one["hits"] for one in alone]
    assert shared == [4]


def test_ten_passages_are_returned_unless_told(client: TestClient) -> None:
    """`k` has a default, and an index with fewer passages returns them all."""
    assert len(client.post("/v1/search", json={"query": "honey"}).json()["hits"]) == len(TEXTS)


@pytest.mark.parametrize("k", [1, MAX_K])
def test_k_may_be_its_least_and_its_most(client: TestClient, k: int) -> None:
    """The limits are allowed themselves."""
    hits = client.post("/v1/search", json={"query": "honey", "k": k}).json()["hits"]
    assert len(hits) == min(k, len(TEXTS))


def test_a_query_may_have_as_many_characters_as_allowed(client: TestClient) -> None:
    """White space around it does not count."""
    query = " \n" + "bees " * (MAX_QUERY_CHARACTERS // 5) + "\t"
    assert client.post("/v1/search", json={"query": query}).status_code == 200


@pytest.mark.parametrize("query", ["?!", "\x00", "🐝", "[CLS] [SEP]", "' OR 1=1 --", "a\u0301\u200b"])
def test_odd_queries_are_answered(client: TestClient, query: str) -> None:
    """Punctuation, control characters, emoji and markers are text like any other."""
    response = client.post("/v1/search", json={"query": query})
    assert (response.status_code, len(response.json()["hits"])) == (200, len(TEXTS))


def test_other_methods_and_places_are_refused(client: TestClient) -> None:
    """As HTTP has it."""
    assert client.get("/v1/search").status_code == 405
    assert client.get("/v1/nothing").status_code == 404
    assert client.get("/static/../app.py").status_code == 404


def test_what_no_route_takes_is_logged_and_counted_without_its_path(
    client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    """A line with id, status and time, as for every request; a path that strangers choose is in no metric's label."""
    asked = [("GET", "/no-such-place", 404), ("PUT", "/v1/search", 405), ("GET", "/v1/index/", 307)]
    begun = time.monotonic()
    with caplog.at_level(logging.INFO, "colonnade"):
        for method, path, status in asked:
            answer = client.request(method, path, headers={"X-Request-Id": "ours"}, follow_redirects=False)
            assert (answer.status_code, answer.headers["x-request-id"]) == (status, "ours")
        assert re.fullmatch("[0-9a-f]{32}", client.get("/nothing").headers["x-request-id"])
        told = client.get("/metrics").text
    spent_ms = 1000 * (time.monotonic() - begun)
    lines = [record.line for record in caplog.records if hasattr(record, "line")]
    assert [(line["request_id"], line["status"]) for line in lines[:3]] == [("ours", status) for *_, status in asked]
    assert {line["route"] for line in lines[:4]} == {"unrouted"}
    assert min(line["total_ms"] for line in lines) > 0
    assert sum(line["total_ms"] for line in lines) < spent_ms
    assert 'colonnade_http_responses_total{route="unrouted",status="405"}' in told
    assert "no-such-place" not in told + json.dumps(lines)


def test_head_is_answered_as_get_without_the_body(searcher: Searcher) -> None:
    """By the page and by every other route: load balancers and link checkers ask so."""
    with running(make_app(searcher, "i")) as address:
        for path in ("/", "/page.js", "/health/live", "/health/ready", "/v1/index", "/docs"):
            connection = HTTPConnection(urlsplit(address).netloc, timeout=30)
            connection.request("GET", path)
            whole = connection.getresponse()
            size = len(whole.read())
            for _ in range(2):  # a body that was sent all the same would be in the way of the next answer
                connection.request("HEAD", path)
                head = connection.getresponse()
                assert (head.status, head.read()) == (whole.status, b"")
                assert head.headers.get("content-length", "0") == str(size), path
            connection.close()
        assert httpx.head(f"{address}/v1/search", timeout=30).status_code == 405


def test_the_index_describes_itself(client: TestClient, encoder: Encoder) -> None:
    """What is served, with nothing set aside."""
    description = client.get("/v1/index").json()
    assert description.pop("published_at").startswith("20")
    assert description == {
        "index": "the/index",
        "version": 1,
        "documents": 4,
        "passages": 4,
        "segments": 1,
        "encoder": encoder.record.name,
        "dim": 384,
        "bits": 8,
        "set_aside": None,
    }


@pytest.mark.parametrize("path", ["/health/live", "/health/ready"])
def test_a_server_that_answers_is_healthy(client: TestClient, path: str) -> None:
    """No content: the status says it all."""
    response = client.get(path)
    assert (response.status_code, response.content) == (204, b"")


def test_the_api_describes_itself_without_the_internet(client: TestClient) -> None:
    """openapi.json has the routes, and the page to try them loads its scripts from the server itself."""
    assert {"/v1/search", "/v1/columns", "/v1/rerank", "/metrics"} < set(client.get("/openapi.json").json()["paths"])
    page = client.get("/docs").text
    assert not re.findall(r"https?:|[\"'(=]\s*//[a-z]", page)
    for name in re.findall(r"docs/[a-z-]+\.(?:js|css)", page):
        assert client.get(f"/{name}").status_code == 200
    assert client.get("/docs/../app.py").status_code == 404
    assert client.get("/docs/favicon.png").status_code == 422


def test_the_api_describes_its_refusals(client: TestClient) -> None:
    """Every operation may answer with the shape that refusals have, and none says otherwise."""
    described = client.get("/openapi.json").json()
    for path, operations in described["paths"].items():
        for operation in operations.values():
            for status in ("4XX", "5XX"):
                shape = operation["responses"][status]["content"]["application/json"]["schema"]
                assert shape == {"$ref": "#/components/schemas/ErrorAnswer"}, path
            assert "422" not in operation["responses"], path
    refused = client.post("/v1/search", json={}).json()
    assert set(refused) == set(described["components"]["schemas"]["ErrorAnswer"]["required"])
    assert "securitySchemes" not in described["components"]


def test_the_page_to_try_the_api_takes_a_key(tmp_path: Path, encoder: Encoder) -> None:
    """Where keys are asked for, each operation says whether it needs one."""
    index = Index.at(tmp_path / "index")
    add_texts(index, encoder, TEXTS)
    write_keys(tmp_path / "keys.json", [make_key("us", ["search"])[0]])
    with TestClient(make_app(Searcher(index, encoder), "i", keys=KeyRing(tmp_path / "keys.json"))) as guarded:
        described = guarded.get("/openapi.json").json()
    (scheme,) = described["components"]["securitySchemes"].values()
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")
    needed = {path: "security" in one for path, ways in described["paths"].items() for one in ways.values()}
    assert (needed["/v1/search"], needed["/metrics"], needed["/health/live"]) == (True, True, False)


def test_a_server_without_keys_answers_by_its_own_names_alone(tmp_path: Path, encoder: Encoder) -> None:
    """A page of another site, whose name was made to point here, is told why it is not answered."""
    index = Index.at(tmp_path / "index")
    add_texts(index, encoder, TEXTS)
    app = make_app(Searcher(index, encoder), "i", hosts=Place("127.0.0.2", 8080).hosts())
    with TestClient(app) as client:
        for host in ("localhost", "LOCALHOST:8080", "127.0.0.1:80", "[::1]:8080", "127.0.0.2:8080", "localhost."):
            assert client.get("/v1/index", headers={"Host": host}).status_code == 200, host
        for host in (
            "evil.example",
            "evil.example:8080",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "",
            "::1",
        ):
            refused = client.get("/v1/index", headers={"Host": host})
            assert (refused.status_code, refused.json()["code"]) == (421, "misdirected_request"), host
            assert "--keys" in refused.json()["message"]
    assert Place("0.0.0.0", 1, insecure=True).hosts() is Place("127.0.0.1", 1, keys=tmp_path).hosts() is None


def test_the_page_is_served_and_loads_nothing_from_elsewhere(client: TestClient) -> None:
    """No address of another host stands in it, and its policy lets the browser ask none."""
    response = client.get("/")
    assert (response.status_code, response.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert re.findall(r"(?:src|href)=\"([^\"]*)\"", response.text) == ["data:,", "page.css", "page.js", "docs"]
    for path, kind in (("/", "html"), ("/page.css", "css"), ("/page.js", "javascript")):
        response = client.get(path)
        assert kind in response.headers["content-type"]
        assert "default-src 'none'; script-src 'self'" in response.headers["content-security-policy"]
        assert not re.findall(r"https?:|wss?:|[\"'(=]\s*//|@import|url\(|\son[a-z]+=\"|<style", response.text)


def test_the_page_never_reads_a_document_as_html() -> None:
    """Documents are not trusted: text goes in as text."""
    for file in STATIC.iterdir():
        found = r"\.(?:inner|outer)HTML|insertAdjacentHTML|document\.write|eval\(|DOMParser|srcdoc"
        assert not re.findall(found, file.read_text(encoding="utf-8"))


class BrokenSearcher(Searcher):
    """A searcher that fails with what nobody may read: a text, and a path of this machine."""

    def encode(self, texts: Sequence[str]) -> list[Vectors]:
        raise RuntimeError(f"{SECRET}: {texts} at {__file__}")

    def retained(self, most: int) -> list[Manifest]:
        try:
            raise OSError(f"{SECRET} at {__file__}")
        except OSError as error:
            raise RuntimeError(f"{SECRET}: {most}") from error


@pytest.mark.parametrize(
    ("path", "body"),
    [("/v1/search", {"query": SECRET}), ("/v1/encode", {"texts": [SECRET]}), ("/v1/versions", None)],
)
def test_a_fault_of_the_server_shows_nothing_of_what_it_says(
    tmp_path: Path, encoder: Encoder, caplog: pytest.LogCaptureFixture, path: str, body: object
) -> None:
    """500 and no trace, no path and no message; the log has kind and place, and the message no more than the answer."""
    index = Index.at(tmp_path / "index")
    add_texts(index, encoder, TEXTS)
    with TestClient(make_app(BrokenSearcher(index, encoder), "i"), raise_server_exceptions=False) as client:
        answer = client.request("GET" if body is None else "POST", path, json=body)
        metrics = client.get("/metrics").text
    assert (answer.status_code, answer.json()["code"]) == (500, "internal")
    told = f"{answer.text} {answer.headers}"
    assert not [word for word in ("Traceback", "Error", SECRET, __file__, str(PROJECT)) if word in told]
    assert f'colonnade_faults_total{{where="{path}"}} 1.0' in metrics
    assert f"{path} failed with RuntimeError at " in caplog.text
    assert SECRET not in caplog.text


def test_a_new_version_is_served_while_the_server_runs(tmp_path: Path, encoder: Encoder) -> None:
    """With its period as it is by default, and nobody asks for it."""
    index = Index.at(tmp_path / "index")
    add_texts(index, encoder, TEXTS)
    with TestClient(make_app(Searcher(Index.at(index.address), encoder), index.address)) as running:
        add_texts(index, encoder, {"ice": "Ice floats on the water."})
        until(lambda: running.get("/v1/index").json()["version"] == 2, "version 2 is served")
        answer = running.post("/v1/search", json={"query": "What floats on water?", "k": 1}).json()
    assert (answer["version"], answer["hits"][0]["document_id"]) == (2, "ice")


def test_a_version_of_another_encoder_is_a_conflict(tmp_path: Path, encoder: Encoder) -> None:
    """409 on every route that takes a version, with both names; what is served is answered."""
    index = reindexed(tmp_path / "index", encoder)
    bodies: dict[str, dict[str, object]] = {
        "/v1/search": {"query": "honey"},
        "/v1/batch-search": {"queries": [{"query": "honey"}]},
        "/v1/documents/fetch": {"ids": ["bees"]},
        "/v1/rerank": {"query": "honey", "texts": ["bees"]},
    }
    with TestClient(make_app(Searcher(index, encoder), index.address)) as client:
        for path, body in bodies.items():
            refused = client.post(path, json={**body, "version": 1})
            assert (refused.status_code, refused.json()["code"]) == (409, "other_encoder"), path
            assert "theirs" in refused.json()["message"]
            assert encoder.record.name in refused.json()["message"]
            assert client.post(path, json={**body, "version": 2}).json()["version"] == 2
        assert client.get("/v1/columns?version=1").status_code == 409


def test_a_version_that_is_set_aside_is_told(tmp_path: Path, encoder: Encoder) -> None:
    """The description says why, and the version before it is served."""
    index = Index.at(tmp_path / "index")
    add_texts(index, encoder, TEXTS)
    searcher = Searcher(index, encoder)
    index.store.create("manifests/00000000000000000002.json", b"{")
    searcher.refresh()
    with TestClient(make_app(searcher, index.address)) as running:
        description = running.get("/v1/index").json()
    assert description["version"] == 1
    assert "00000000000000000002.json" in description["set_aside"]


def _values(client: TestClient) -> dict[str, float]:
    lines = client.get("/metrics").text.splitlines()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}


def test_the_metrics_say_what_happened(tmp_path: Path, encoder: Encoder) -> None:
    """Versions, lag, documents, filters that were met again, answers, and stages, by their values."""
    index = Index.at(tmp_path / "index")
    add_texts(index, encoder, TEXTS, year=2001)
    searcher = Searcher(Index.at(index.address), encoder)
    app = make_app(searcher, "i", Settings(refresh_seconds=3600))
    body = {"query": "honey", "filter": {"op": "==", "column": "year", "value": 2001}}
    hit, miss = 'colonnade_filter_lookups_total{result="hit"}', 'colonnade_filter_lookups_total{result="miss"}'
    with TestClient(app) as client:
        assert (_values(client)[hit], _values(client)[miss]) == (0, 0)
        assert all(client.post("/v1/search", json=body).status_code == 200 for _ in range(3))
        client.post("/v1/search", json={"k": 0})
        told = _values(client)
        assert (told[hit], told[miss]) == (2, 1)
        assert told["colonnade_filter_cache_bytes"] > 0
        assert told['colonnade_stage_seconds_count{stage="search"}'] == 3
        assert told['colonnade_http_responses_total{route="/v1/search",status="200"}'] == 3
        assert told['colonnade_http_responses_total{route="/v1/search",status="422"}'] == 1
        assert (told["colonnade_documents"], told["colonnade_passages"]) == (4, 4)
        assert told["colonnade_index_bytes"] == sum(file.size for file in index.current().files())
        assert (told["colonnade_version"], told["colonnade_newest_version"], told["colonnade_lag_seconds"]) == (1, 1, 0)
        index.store.create("manifests/00000000000000000002.json", b"{")
        assert not searcher.refresh()
        told = _values(client)
        assert (told["colonnade_version"], told["colonnade_newest_version"]) == (1, 2)
        assert told["colonnade_version_set_aside"] == 1
        assert 0 < told["colonnade_lag_seconds"] < _values(client)["colonnade_lag_seconds"]


def test_the_metrics_tell_of_files_that_were_fetched(tmp_path: Path, encoder: Encoder) -> None:
    """Of an index that is not on this machine: all of them at the first start, none at the next one."""
    store = MemoryStore()
    add_texts(Index(store, tmp_path), encoder, TEXTS)
    lookups = 'colonnade_file_lookups_total{{result="{}"}}'
    for start in ("cold", "warm"):
        index = Index(store, tmp_path / "cache")
        with TestClient(make_app(Searcher(index, encoder), "i", Settings(refresh_seconds=3600))) as client:
            told = _values(client)
        files = index.current().files()
        fetched = sum(file.size for file in files) if start == "cold" else 0
        assert told["colonnade_file_fetched_bytes_total"] == fetched
        hits, misses = told[lookups.format("hit")], told[lookups.format("miss")]
        assert (hits, misses) == ((0, len(files)) if start == "cold" else (len(files), 0))
        assert told["colonnade_file_cache_bytes"] == sum(file.size for file in files)
        assert told['colonnade_damaged_files_total{where="cache"}'] == 0
        assert told['colonnade_damaged_files_total{where="index"}'] == 0


def test_the_dashboard_asks_only_for_series_that_there_are(client: TestClient) -> None:
    """Every metric that a panel names is told by /metrics."""
    client.post("/v1/search", json={"query": "honey"})
    told = set(re.findall(r"^# TYPE (\S+)", client.get("/metrics").text, re.MULTILINE))
    dashboard = json.loads((Path(__file__).parents[2] / "docs" / "grafana" / "colonnade.json").read_text())
    asked = {target["expr"] for panel in dashboard["panels"] for target in panel["targets"]}
    named = set(re.findall(r"\b(?:colonnade|process)_[a-z_]+", " ".join(asked)))
    assert {re.sub(r"_(bucket|sum|count)$", "", name) for name in named} - {"process_resident_memory_bytes"} <= told
    of_each = {"colonnade_swaps_total", "colonnade_documents", "colonnade_passages"}  # told, and on no panel
    own = {name for name in told if name.startswith("colonnade_") and not name.endswith("_created")}
    assert own - of_each <= {re.sub(r"_(bucket|sum|count)$", "", name) for name in named}

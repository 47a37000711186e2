"""Many clients at once, over real HTTP: batches, a bounded queue, deadlines, versions, swaps, draining."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from benchmarks.open_loop import open_loop
from colonnade.client import AsyncClient, Client, Refused
from encoding.encoder import Encoder
from index_format.index import Index
from serving.http.app import make_app
from serving.http.connections import PromptProtocol
from serving.http.parts import Settings
from serving.searcher import Searcher
from tests.serving.running import connect, running
from tests.serving.vectors import add_texts
from tests.waiting import until

TEXTS = {"bees": "Bees make honey.", "lava": "Lava flows from the volcano."}


class HeldSearcher(Searcher):
    """A searcher that encodes only when it may; it tells what it was given to encode."""

    def __init__(self, index: Index, encoder: Encoder) -> None:
        super().__init__(index, encoder)
        self.may_go = threading.Event()
        self.may_go.set()
        self.begun = threading.Event()
        self.batches: list[list[str]] = []

    def encode(self, texts: Sequence[str]) -> list[Any]:
        self.batches.append(list(texts))
        self.begun.set()
        assert self.may_go.wait(60)
        return super().encode(texts)

    def hold(self) -> None:
        """From now on encoding waits."""
        self.may_go.clear()
        self.begun.clear()
        self.batches.clear()


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory, encoder: Encoder) -> Index:
    """Two documents."""
    made = Index.at(tmp_path_factory.mktemp("load") / "index")
    add_texts(made, encoder, TEXTS)
    return made


@pytest.fixture(scope="module")
def searcher(index: Index, encoder: Encoder) -> HeldSearcher:
    return HeldSearcher(index, encoder)


@pytest.fixture
def address(searcher: HeldSearcher) -> Iterator[str]:
    """A server of whose queries at most four wait."""
    with running(make_app(searcher, "the/index", Settings(queue_limit=4, body_seconds=0.5))) as at:
        yield at


@contextmanager
def held(searcher: HeldSearcher, address: str, pool: ThreadPoolExecutor) -> Iterator[Any]:
    """The worker is busy with a first query inside; yields that query's response to come."""
    searcher.hold()
    first = pool.submit(ask, address, "first")
    try:
        assert searcher.begun.wait(30)
        yield first
    finally:
        searcher.may_go.set()


def ask(address: str, query: str, **more: object) -> httpx.Response:
    return httpx.post(f"{address}/v1/search", json={"query": query, **more}, timeout=60)


def metric(address: str, name: str) -> float:
    """The value of a series, 0 where it has none yet."""
    lines = httpx.get(f"{address}/metrics", timeout=30).text.splitlines()
    return float(next((line for line in lines if line.startswith(f"{name} ")), "0").rpartition(" ")[2])


def queued(address: str) -> float:
    return metric(address, "colonnade_queue_length")


def until_queued(address: str, count: int) -> None:
    """Until so many queries wait behind the one that is held."""
    until(lambda: queued(address) == count, f"{count} queries wait")


def test_queries_that_wait_together_are_encoded_together(searcher: HeldSearcher, address: str) -> None:
    """The one that came first goes alone, without waiting for a timer; each gets its own answer."""
    with ThreadPoolExecutor(8) as pool:
        with held(searcher, address, pool) as first:
            rest = [pool.submit(ask, address, text) for text in ("bees", "honey", "lava", "volcano")]
            until_queued(address, 4)
        answers = [one.result().json()["hits"][0]["document_id"] for one in rest]
    assert first.result().status_code == 200
    assert answers == ["bees", "bees", "lava", "lava"]
    assert searcher.batches[0] == ["first"]
    assert sorted(searcher.batches[1]) == ["bees", "honey", "lava", "volcano"]


def test_who_comes_when_the_queue_is_full_is_told_when_to_come_back(searcher: HeldSearcher, address: str) -> None:
    """503 while the worker is busy, and everyone who was accepted is answered; a batch is accepted whole or not."""
    with ThreadPoolExecutor(8) as pool:
        with held(searcher, address, pool) as first:
            accepted = [first, *(pool.submit(ask, address, f"number {number}") for number in range(3))]
            until_queued(address, 3)
            batch = {"queries": [{"query": "a"}, {"query": "b"}]}
            refused = httpx.post(f"{address}/v1/batch-search", json=batch, timeout=30)
            assert queued(address) == 3
            accepted.append(pool.submit(ask, address, "the last"))
            until_queued(address, 4)
            refused_too = ask(address, "one too many")
        assert [one.result().status_code for one in accepted] == [200] * 5
    for response in (refused, refused_too):
        assert (response.status_code, response.json()["code"]) == (503, "overloaded")
        assert int(response.headers["retry-after"]) >= 1


def test_arrivals_beyond_the_queue_are_answered_or_told_to_come_back(address: str) -> None:
    """As the benchmark measures it: whatever the rate, nothing fails otherwise."""
    load = open_loop(address, ["honey", "lava"], rate=200, seconds=0.2)
    assert (load.sent, load.answered + load.refused, load.failed) == (40, 40, 0)
    assert load.answered > 0
    assert load.p50_ms is not None


def test_what_expired_or_was_abandoned_is_never_encoded(searcher: HeldSearcher, address: str) -> None:
    """504 at the deadline, although the worker is busy; and of a client that hung up nothing is computed."""
    dropped = metric(address, "colonnade_dropped_queries_total")
    with ThreadPoolExecutor(8) as pool:
        with held(searcher, address, pool) as first:
            late = ask(address, "late", timeout_ms=100)
            impatient = HTTPConnection(urlsplit(address).netloc, timeout=60)
            impatient.request("POST", "/v1/search", b'{"query": "impatient"}', {"Content-Type": "application/json"})
            until_queued(address, 2)
            impatient.close()
            patient = pool.submit(ask, address, "patient")
            until_queued(address, 3)
            gone = 'colonnade_http_responses_total{route="/v1/search",status="499"}'
            until(lambda: metric(address, gone) == 1, "the server has heard that a client hung up")
        assert (first.result().status_code, patient.result().status_code) == (200, 200)
    assert (late.status_code, late.json()["code"]) == (504, "deadline_exceeded")
    assert searcher.batches == [["first"], ["patient"]]
    assert metric(address, "colonnade_dropped_queries_total") == dropped + 2


def test_a_body_that_does_not_come_holds_nothing_up(address: str) -> None:
    """408 for whoever trickles it, while others are answered."""
    with connect(address) as slow:
        head = "POST /v1/search HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n"
        slow.sendall(head.encode() + b'{"query": "')
        assert ask(address, "honey").status_code == 200
        assert slow.recv(100).startswith(b"HTTP/1.1 408")


def hung_up(connection: socket.socket, more: bytes) -> bool:
    """Whether the other side closed it, after it was sent some more."""
    connection.setblocking(False)
    try:
        connection.sendall(more)
        return connection.recv(1000) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


@pytest.mark.parametrize("trickle", [b"", b"GET /v1/index HTTP/1.1\r\nX-Slow: ", b"\r\n"])
def test_who_brings_no_request_is_hung_up_on(address: str, trickle: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither silence nor a head or empty lines that never end hold a connection."""
    monkeypatch.setattr(PromptProtocol, "head_seconds", 0.3)
    with connect(address) as slow:
        until(lambda: hung_up(slow, trickle), "the server hangs up")


def test_who_goes_on_after_a_refusal_is_hung_up_on(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest of a body that nobody reads does not keep the connection."""
    with connect(address) as slow:
        slow.sendall(b"POST /nothing HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n")
        assert slow.recv(1000).startswith(b"HTTP/1.1 404 ")
        monkeypatch.setattr(PromptProtocol, "head_seconds", 0.3)
        until(lambda: hung_up(slow, b"a"), "the server hangs up")


def test_a_slow_answer_is_waited_for(searcher: HeldSearcher, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is the client's: the connection stays while the server makes its answer, and for the next request."""
    monkeypatch.setattr(PromptProtocol, "head_seconds", 2.0)
    with httpx.Client(base_url=address, timeout=60) as client, ThreadPoolExecutor(1) as pool:
        searcher.hold()
        slow = pool.submit(client.post, "/v1/search", json={"query": "honey"})
        try:
            assert searcher.begun.wait(30)
            time.sleep(2.5)
        finally:
            searcher.may_go.set()
        assert slow.result().status_code == 200
        assert client.get("/v1/index").status_code == 200


def test_a_body_that_is_too_large_is_refused(address: str) -> None:
    """413 by its length, and by its bytes where it tells none."""
    large = b" " * (Settings().body_bytes + 1)
    told = httpx.post(f"{address}/v1/search", content=large, headers={"Content-Type": "application/json"}, timeout=30)
    streamed = httpx.post(f"{address}/v1/search", content=iter([large]), timeout=30)
    assert [told.status_code, streamed.status_code] == [413, 413]


def test_a_client_can_ask_for_a_version(tmp_path: Path, encoder: Encoder) -> None:
    """Exactly one that is retained, or at least one that is about to come; else it is told what there is."""
    index = Index.at(tmp_path / "index")
    add_texts(index, encoder, TEXTS)
    with (
        running(make_app(Searcher(Index.at(index.address), encoder), "i", Settings(refresh_seconds=60))) as address,
        Client(address, attempts=1) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        assert client.search("honey", min_version=1).version == 1
        coming = pool.submit(client.search, "ice", min_version=2, k=1)
        add_texts(index, encoder, {"ice": "Ice floats on the water."})
        # A look of its own was asked for, and may have come before the commit: then the next request looks again.
        assert client.search("ice", min_version=2).version == 2
        assert (coming.result().version, coming.result().hits[0].document_id) == (2, "ice")
        older = client.search("ice", version=1)
        assert (older.version, {hit.document_id for hit in older.hits}) == (1, set(TEXTS))
        for options, status, code in (
            ({"version": 9}, 404, "version_not_retained"),
            ({"min_version": 3, "timeout_ms": 200}, 503, "version_not_served"),
        ):
            with pytest.raises(Refused) as refused:
                client.search("ice", **options)
            assert (refused.value.status, refused.value.code) == (status, code)
        versions = httpx.get(f"{address}/v1/versions", timeout=30).json()
        assert (versions["served"], [one["version"] for one in versions["versions"]]) == (2, [2, 1])


def test_swaps_under_load_fail_no_query(tmp_path: Path, encoder: Encoder) -> None:
    """Four clients ask while ten versions replace every document; answers are of one version, which never goes back."""
    index = Index.at(tmp_path / "index")
    publish = [lambda n=number: add_texts(index, encoder, {"a": f"{n} a", "b": f"{n} b"}) for number in range(1, 12)]
    publish[0]()
    done = threading.Event()
    with running(
        make_app(Searcher(Index.at(index.address), encoder), "i", Settings(0.02, deadline_ms=60_000))
    ) as address:

        def load() -> list[int]:
            seen = [0]
            with httpx.Client(base_url=address, timeout=60) as client:
                while not done.is_set():
                    answer = client.post("/v1/search", json={"query": "a"}).raise_for_status().json()
                    assert {hit["text"] for hit in answer["hits"]} == {f"{answer['version']} {one}" for one in "ab"}
                    assert answer["version"] >= seen[-1]
                    seen.append(answer["version"])
            return seen

        with ThreadPoolExecutor(4) as pool:
            loads = [pool.submit(load) for _ in range(4)]
            try:
                for one in publish[1:]:
                    one()
                last = len(publish)
                until(lambda: metric(address, "colonnade_version") == last, "the last version is served")
            finally:
                done.set()
            seen = set().union(*(one.result() for one in loads))
        assert metric(address, "colonnade_swaps_total") >= 2
        assert metric(address, "colonnade_version") == len(publish)
    assert len(seen) > 2


def test_a_server_that_is_stopped_answers_what_it_accepted(index: Index, encoder: Encoder) -> None:
    """Queries that wait when it is told to stop are answered before it ends."""
    searcher = HeldSearcher(index, encoder)
    with ThreadPoolExecutor(4) as pool:
        with running(make_app(searcher, "the/index")) as address:
            searcher.hold()
            asked = [pool.submit(ask, address, "first")]
            assert searcher.begun.wait(30)  # or the first batch would have more than the first query
            asked += [pool.submit(ask, address, f"number {number}") for number in range(3)]
            until_queued(address, 3)
            threading.Timer(0.5, searcher.may_go.set).start()
        wait(asked)
    assert [one.result().status_code for one in asked] == [200] * 4


def test_the_client_comes_back_when_it_may(searcher: HeldSearcher, address: str) -> None:
    """A refused query is asked again after Retry-After, and then answered."""
    with ThreadPoolExecutor(8) as pool:
        with held(searcher, address, pool):
            others = [pool.submit(ask, address, f"number {number}") for number in range(4)]
            until_queued(address, 4)
            with Client(address) as client:
                again = pool.submit(client.search, "honey", k=1)
                until(lambda: metric(address, "colonnade_rejected_queries_total") >= 1, "the query is refused")
                searcher.may_go.set()
                assert again.result().hits[0].document_id == "bees"
        wait(others)


async def _everything(address: str) -> None:
    async with AsyncClient(address) as client:
        vectors = (await client.encode(["honey"])).vectors[0]
        found = await client.search(vectors=vectors, k=1, fields=["text"])
        assert found.hits[0].document_id == "bees"
        batch = await client.batch_search([{"query": "lava", "k": 1}, {"query": "bees", "k": 1}])
        assert (batch.version, [one.hits[0].document_id for one in batch.answers]) == (1, ["lava", "bees"])
        (document,) = (await client.fetch(["lava", "nothing"])).documents
        assert document.text == TEXTS["lava"]
        assert (await client.index()).documents == 2


def test_the_async_client_does_what_the_sync_one_does(address: str) -> None:
    """Vectors that were encoded over HTTP find what their text finds."""
    asyncio.run(_everything(address))


def test_the_client_gives_typed_answers(address: str) -> None:
    """Rerank, columns, versions, both sides of a hybrid search, and what a hit matched."""
    with Client(address) as client:
        assert [one.position for one in client.rerank("honey", ["Lava flows.", TEXTS["bees"]]).texts] == [1, 0]
        assert [(one.name, one.kinds) for one in client.columns().columns] == [("id", ["text"])]
        assert [(one.version, one.documents) for one in client.versions(limit=1).versions] == [(1, 2)]
        found = client.search("honey", k=1, hybrid={}, explain=True)
        assert found.hits[0].fused is not None
        assert (found.hits[0].fused.maxsim_rank, found.hits[0].fused.bm25_rank) == (1, 1)
        assert found.explanation is not None
        (span,) = found.explanation.hits[0].matches[-1].spans
        assert TEXTS["bees"][span.start : span.end] == "honey"


def test_a_search_takes_fields_an_offset_and_good_vectors_only(address: str) -> None:
    """A hit has what was asked for; the second page begins where the first ended; wrong vectors are told."""
    whole = ask(address, "honey").json()["hits"]
    assert ask(address, "honey", offset=1, k=1).json()["hits"] == whole[1:2]
    assert set(ask(address, "honey", fields=[]).json()["hits"][0]) == {
        "document_id",
        "passage",
        "score",
        "start",
        "end",
    }
    for vectors in ([[1.0]], [[]], [], [[float("1e39")] * 384], [["a"] * 384]):
        refused = httpx.post(f"{address}/v1/search", content=json.dumps({"vectors": vectors}), timeout=30)
        assert refused.status_code == 422
        refused = httpx.post(f"{address}/v1/search", json={"vectors": vectors}, timeout=30)
        assert (refused.status_code, refused.json()["detail"][0]["loc"][1]) == (422, "vectors")


def test_sampled_answers_are_checked_against_the_exact_ones(index: Index, encoder: Encoder) -> None:
    """After they left; on an index this small none misses anything."""
    with running(make_app(Searcher(index, encoder), "i", Settings(shadow_share=1.0))) as address:
        assert ask(address, "honey").status_code == 200
        until(lambda: metric(address, "colonnade_shadow_recall_count") == 1, "the answer is checked")
        assert metric(address, "colonnade_shadow_recall_sum") == 1

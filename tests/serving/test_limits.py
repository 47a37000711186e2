"""What is refused, and what it costs the server: a full queue, too much at once, memory, clients that take nothing."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from http.client import HTTPResponse
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from encoding.encoder import Encoder
from index_format.errors import InputError
from index_format.index import Index
from serving.http.app import make_app
from serving.http.connections import PromptProtocol
from serving.http.parts import Settings
from serving.searcher import Searcher
from serving.snapshot import Snapshot
from tests.serving.running import connect, running
from tests.serving.test_load import HeldSearcher, ask, held, metric, queued, until_queued
from tests.serving.vectors import add_texts
from tests.strategies import delete
from tests.waiting import until

LARGE = 8_000_000  # bytes: more than the kernel keeps for a connection


class OddSearcher(HeldSearcher):
    """Memory runs out for one text, and old versions open when they may."""

    may_open = threading.Event()

    def encode(self, texts: Sequence[str]) -> list[Any]:
        if "too much" in texts:  # as the encoder tells it, whose advice is for those who build
            raise InputError("encoder: memory ran out. Build with a smaller --passage-tokens.") from MemoryError()
        return super().encode(texts)

    def at_version(self, version: int) -> Snapshot:
        assert self.may_open.wait(60)
        return super().at_version(version)


@pytest.fixture(scope="module")
def searcher(tmp_path_factory: pytest.TempPathFactory, encoder: Encoder) -> OddSearcher:
    """Three documents, one of which makes a large answer; version 2 is served."""
    index = Index.at(tmp_path_factory.mktemp("limits") / "index")
    add_texts(index, encoder, {"bees": "Bees make honey.", "gone": "Gone."})
    add_texts(index, encoder, {"large": "A large thing."}, blob="x" * LARGE)
    delete(index, "gone")
    return OddSearcher(index, encoder)


@pytest.fixture
def address(searcher: OddSearcher) -> Iterator[str]:
    """A server of whose queries at most four wait."""
    searcher.may_open.set()
    with running(make_app(searcher, "i", Settings(queue_limit=4, refresh_seconds=60, deadline_ms=60_000))) as at:
        yield at


def test_a_refusal_waits_neither_for_its_body_nor_for_the_queue(searcher: OddSearcher, address: str) -> None:
    """It comes before the body does, says when to come back, and nothing of what waits is answered meanwhile."""
    head = b"POST /v1/search HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\n"
    with ThreadPoolExecutor(8) as pool, held(searcher, address, pool) as first:
        waiters = [pool.submit(ask, address, f"number {number}") for number in range(4)]
        until_queued(address, 4)
        for _ in range(20):
            with connect(address) as client:
                client.sendall(head)
                with HTTPResponse(client) as refused:
                    refused.begin()
                    assert (refused.status, json.load(refused)["code"]) == (503, "overloaded")
                    assert int(refused.headers["Retry-After"]) >= 1
        assert (queued(address), first.done()) == (4, False)
        searcher.may_go.set()
        wait([first, *waiters])
    assert [one.result().status_code for one in waiters] == [200] * 4


def test_a_malformed_body_is_refused_unread_while_the_queue_is_full(searcher: OddSearcher, address: str) -> None:
    """503 and not 422: who is refused for being one too many costs no parsing."""
    with ThreadPoolExecutor(8) as pool, held(searcher, address, pool):
        waiters = [pool.submit(ask, address, f"number {number}") for number in range(4)]
        until_queued(address, 4)
        for path in ("search", "batch-search", "encode"):
            assert httpx.post(f"{address}/v1/{path}", content=b"{", timeout=30).json()["code"] == "overloaded"
        searcher.may_go.set()
        wait(waiters)


def test_more_at_once_than_may_ever_wait_is_no_overload(address: str) -> None:
    """422 with the limit: a client that came back would be refused for ever."""
    for path, body in (
        ("batch-search", {"queries": [{"query": "honey"}] * 5}),
        ("encode", {"texts": ["honey"] * 5}),
    ):
        refused = httpx.post(f"{address}/v1/{path}", json=body, timeout=30)
        assert (refused.status_code, "at most 4 at once" in refused.json()["message"]) == (422, True)


def test_memory_that_runs_out_is_no_fault_of_the_query(
    searcher: OddSearcher, address: str, caplog: pytest.LogCaptureFixture
) -> None:
    """503 with Retry-After, counted as a fault, and the next query is answered."""
    with caplog.at_level(logging.ERROR, "colonnade"):
        refused = ask(address, "too much")
    assert (refused.status_code, refused.json()["code"]) == (503, "out_of_memory")
    assert "--passage-tokens" not in refused.text + caplog.text
    assert int(refused.headers["retry-after"]) >= 1
    assert metric(address, 'colonnade_faults_total{where="/v1/search"}') == 1
    assert ask(address, "honey").status_code == 200


def test_old_versions_that_are_opened_hold_nothing_else_up(searcher: OddSearcher, address: str) -> None:
    """Six wait their turn in a queue that is bounded; documents are read meanwhile, and so is what is open."""
    searcher.may_open.clear()
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(ask, address, "honey", version=1) for _ in range(6)]
        until(lambda: sum(one.done() for one in asked) == 2, "two are refused")  # there was room for four
        assert ask(address, "honey", version=3).status_code == 200
        fetched = httpx.post(f"{address}/v1/documents/fetch", json={"ids": ["bees"]}, timeout=30)
        assert fetched.json()["documents"][0]["document_id"] == "bees"
        searcher.may_open.set()
        assert sorted(one.result().status_code for one in asked) == [200] * 4 + [503] * 2
    assert {one.result().json().get("code") for one in asked} == {None, "overloaded"}


def test_those_who_wait_for_a_version_to_come_are_bounded(address: str) -> None:
    """As those in the queue are."""
    with ThreadPoolExecutor(6) as pool:
        codes = [one.json()["code"] for one in pool.map(lambda _: ask(address, "honey", min_version=9), range(6))]
    # On a machine that is slow enough the last come when the first have waited their 5 seconds.
    assert set(codes) == {"overloaded", "version_not_served"}
    assert codes.count("version_not_served") >= 4


def test_who_takes_no_answer_is_hung_up_on(searcher: OddSearcher, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the answer nor the end of the server waits for a client that does not read."""
    monkeypatch.setattr(PromptProtocol, "send_seconds", 0.3)
    monkeypatch.setattr("colonnade.server.DRAIN_SECONDS", 3600)  # nor is it the end that breaks the answer off
    body = json.dumps({"ids": ["large"]}).encode()
    head = (
        f"POST /v1/documents/fetch HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    )
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        with running(make_app(searcher, "i")) as address:
            slow.settimeout(30)
            slow.connect((urlsplit(address).hostname, urlsplit(address).port))
            slow.sendall(head.encode() + b"\r\n\r\n" + body)
            assert slow.recv(8).startswith(b"HTTP/1.1")
        assert _rest(slow) < LARGE - 8  # what the kernel had taken


def _rest(connection: socket.socket) -> int:
    """How many bytes still come."""
    size = 0
    try:
        while part := connection.recv(2**20):
            size += len(part)
    except ConnectionError:
        pass
    return size


def test_who_takes_an_answer_slowly_gets_it_whole(searcher: OddSearcher, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is a rate, not a time: as long as enough is taken it goes on."""
    monkeypatch.setattr(PromptProtocol, "send_seconds", 0.5)
    monkeypatch.setattr(PromptProtocol, "send_bytes", 1)
    with (
        running(make_app(searcher, "i")) as address,
        httpx.stream("POST", f"{address}/v1/documents/fetch", json={"ids": ["large"]}, timeout=60) as answer,
    ):
        size = 0
        for part in answer.iter_raw(2**20):
            size += len(part)
            time.sleep(0.15)
    assert size > LARGE


def test_a_server_whose_worker_ended_is_not_ready(tmp_path: Path, encoder: Encoder) -> None:
    """It lives, and says to the balancer that it should be asked no more."""
    index = Index.at(tmp_path / "index")
    add_texts(index, encoder, {"bees": "Bees make honey."})
    app = make_app(Searcher(index, encoder), "i")
    with running(app) as address:
        assert httpx.get(f"{address}/health/ready", timeout=30).status_code == 204
        app.state.gate.batcher.stop()
        assert httpx.get(f"{address}/health/ready", timeout=30).status_code == 503
        assert httpx.get(f"{address}/health/live", timeout=30).status_code == 204
        assert ask(address, "honey").status_code == 503


def test_a_body_of_two_lengths_ends_the_connection_with_its_refusal(address: str) -> None:
    """What stands behind it may be hidden from a proxy on the way, and is not answered."""
    hidden = b"GET /v1/index HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    body = b"0\r\n\r\n" + hidden
    head = (
        "POST /v1/search HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    with connect(address) as client:
        client.sendall(head.encode() + body)
        told = b"".join(iter(lambda: client.recv(65_536), b""))
    assert told.startswith(b"HTTP/1.1 400 ")
    assert b'"two_lengths"' in told
    assert told.count(b"HTTP/1.1") == 1


@pytest.mark.parametrize("pause", [0, 0.05])
@pytest.mark.parametrize("path", ["/v1/search", "/v1/nothing"])
def test_a_body_that_turns_out_malformed_is_refused_once(
    address: str, caplog: pytest.LogCaptureFixture, path: str, pause: float
) -> None:
    """Also where the request has its answer already: a second one would be a fault, and told in the log."""
    head = f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    parts = [head.encode() + b'9\r\n{"query":\r\n', b"no number\r\n"]
    with connect(address) as client:
        for part in parts if pause else [b"".join(parts)]:
            client.sendall(part)
            time.sleep(pause)
        told = b"".join(iter(lambda: client.recv(65_536), b""))
    assert told.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 404 "))
    assert told.count(b"HTTP/1.1") == 1
    assert httpx.get(f"{address}/health/ready", timeout=30).status_code == 204
    assert not [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]

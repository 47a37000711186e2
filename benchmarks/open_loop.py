"""Queries that arrive at a fixed rate, whether or not those before were answered; and versions that come meanwhile.

Latency counts from the moment at which a query was to arrive, so what waits for a slow answer is not left out.
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.client import HTTPConnection, HTTPException
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
from urllib.parse import urlsplit

from index_format.change import Origin, delete_documents, live_documents
from index_format.index import Index
from index_format.manifest import Manifest

CLIENTS = 128  # connections: more than a small queue and a batch hold, so that none waits for another here
PUBLISH_SECONDS = 1.0  # between two versions: a server looks as often
NO_ANSWER, TORN = 0, -1  # in place of a status
MOST_SECONDS_TO_START = 60.0
MOST_SECONDS_A_SWAP = 10.0  # a server that takes longer does not follow any more


@dataclass(frozen=True, slots=True)
class Load:
    """What became of queries that came at a rate (a second). Milliseconds are None where there was no such answer.

    refused: 503. failed: any other status, or none. late_ms: how late the last to be sent was, by fault of this side.
    """

    rate: float
    seconds: float
    sent: int
    answered: int
    refused: int
    failed: int
    p50_ms: float | None
    p99_ms: float | None
    refused_p50_ms: float | None
    refused_p99_ms: float | None
    late_ms: float


@dataclass(frozen=True, slots=True)
class Swaps:
    """A load while versions were swapped. p99_ratio: to the same load without."""

    load: Load
    swaps: int
    swaps_per_minute: float
    p99_ratio: float | None


@dataclass(frozen=True, slots=True)
class Told:
    """How a try at a request went.

    status: NO_ANSWER where nothing came back, TORN where an answer began and did not end. sent: when all of the
    request was written, of `time.perf_counter`; None where it was not. answer: if it was to be kept.
    """

    status: int
    sent: float | None
    retry_after: str | None = None
    answer: bytes = b""


@dataclass(frozen=True, slots=True)
class Asked:
    """What became of one request. Times are of `time.perf_counter`. body: number of what was sent."""

    body: int
    due: float
    begun: float
    answered: float
    told: Told

    @property
    def ms(self) -> float:
        """From the moment at which it was to be sent."""
        return 1000 * (self.answered - self.due)


class _Asker:
    """Sends searches to a server, a connection for each thread that it keeps."""

    def __init__(self, address: str, *, tries: int, keep: bool) -> None:
        """tries: on a connection each; the server may have closed one that rested, as we wrote to it."""
        self._netloc = urlsplit(address).netloc
        self._tries, self._keep = tries, keep
        self._own = threading.local()

    def ask(self, number: int, body: bytes, due: float) -> Asked:
        """Send a body, the `number`th of those there are."""
        begun = time.perf_counter()
        for attempt in range(1, self._tries + 1):
            told = _exchange(self._connection(), body, keep=self._keep)
            if told.status != NO_ANSWER or attempt == self._tries:
                break
        return Asked(number, due, begun, time.perf_counter(), told)

    def _connection(self) -> HTTPConnection:
        if not hasattr(self._own, "connection"):
            self._own.connection = HTTPConnection(self._netloc, timeout=60)
        connection: HTTPConnection = self._own.connection
        return connection


def _exchange(connection: HTTPConnection, body: bytes, *, keep: bool) -> Told:
    """One request; a connection that failed is closed, and opened again when it is next used."""
    status, sent = NO_ANSWER, None
    try:
        connection.request("POST", "/v1/search", body, {"Content-Type": "application/json"})
        sent = time.perf_counter()
        response = connection.getresponse()
        status = TORN
        answer = response.read()
    except (OSError, HTTPException):
        connection.close()
        return Told(status, sent)
    return Told(response.status, sent, response.headers["Retry-After"], answer if keep else b"")


def ask_at_rate(
    address: str,
    bodies: Sequence[bytes],
    rate: float,
    more: Callable[[float], bool],
    *,
    tries: int = 2,
    keep: bool = False,
) -> list[Asked]:
    """Send one body after the other at a rate (a second), and wait for what is left.

    It goes on while `more` says so of the seconds since it began. keep: the answers, too.
    """
    asker = _Asker(address, tries=tries, keep=keep)
    with ThreadPoolExecutor(CLIENTS) as pool:
        start, asked = time.perf_counter() + 0.1, []
        for number in itertools.takewhile(lambda number: more(number / rate), itertools.count()):
            due = start + number / rate
            time.sleep(max(0.0, due - time.perf_counter()))
            body = number % len(bodies)
            asked.append(pool.submit(asker.ask, body, bodies[body], due))
        return [one.result() for one in asked]


def open_loop(address: str, queries: Sequence[str], rate: float, seconds: float) -> Load:
    """Ask at a rate (queries a second) for some seconds."""
    return load_of(ask_at_rate(address, _bodies(queries), rate, lambda spent: spent < seconds), rate, seconds)


def load_of(asked: Sequence[Asked], rate: float, seconds: float) -> Load:
    """The figures of requests that came at a rate for some seconds."""
    answered = sorted(one.ms for one in asked if one.told.status == 200)
    refused = sorted(one.ms for one in asked if one.told.status == 503)
    return Load(
        rate=round(rate, 1),
        seconds=round(seconds, 1),
        sent=len(asked),
        answered=len(answered),
        refused=len(refused),
        failed=len(asked) - len(answered) - len(refused),
        p50_ms=_quantile(answered, 0.5),
        p99_ms=_quantile(answered, 0.99),
        refused_p50_ms=_quantile(refused, 0.5),
        refused_p99_ms=_quantile(refused, 0.99),
        late_ms=round(1000 * max((one.begun - one.due for one in asked), default=0.0), 2),
    )


def under_swaps(address: str, index: Index, queries: Sequence[str], steady: Load, swaps: int) -> Swaps:
    """The load of `steady` until a server has swapped so often.

    All the while a process deletes a document of the index every second, each as a new version. Ends without that
    many swaps where the documents come to an end, or the server does not follow.
    """
    seen = _SwapCount(address)
    with publishing(index) as publisher, seen:
        begun = time.perf_counter()
        asked = ask_at_rate(
            address,
            _bodies(queries),
            steady.rate,
            lambda spent: seen.count < swaps and publisher.is_alive() and spent < swaps * MOST_SECONDS_A_SWAP,
        )
        seconds = time.perf_counter() - begun
    load = load_of(asked, steady.rate, seconds)
    return Swaps(load, seen.count, round(60 * seen.count / seconds, 1), p99_ratio(load, steady))


def p99_ratio(load: Load, steady: Load) -> float | None:
    """How much slower the slowest of a load are than those of the same load on a server left alone."""
    return round(load.p99_ms / steady.p99_ms, 2) if load.p99_ms and steady.p99_ms else None


def _bodies(queries: Sequence[str]) -> list[bytes]:
    return [json.dumps({"query": query}).encode() for query in queries]


class _SwapCount:
    """How often a server swapped since this was made, looked at twice a second until the end of a block."""

    def __init__(self, address: str) -> None:
        self.count = 0
        self._address, self._before = address, _swaps_of(address)
        self._ended = threading.Event()
        self._looking = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> None:
        self._looking.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._looking.join()

    def _look(self) -> None:
        while not self._ended.wait(0.5):
            self.count = _swaps_of(self._address) - self._before


@contextmanager
def publishing(index: Index) -> Iterator[BaseProcess]:
    """Another process publishes versions of an index until the end of this, or of its documents.

    It is up when this begins: what Python takes to start would be held against the swaps.
    """
    context = multiprocessing.get_context("spawn")
    up, stop = context.Event(), context.Event()
    publisher = context.Process(target=publish, args=(index.address, up, stop))
    publisher.start()
    try:
        if not up.wait(MOST_SECONDS_TO_START):
            raise TimeoutError(f"the publisher of {index.address} did not start")
        yield publisher
    finally:
        stop.set()
        publisher.join()


def publish(address: str, up: Event, stop: Event) -> None:
    """Say that this is up, and delete one document after another, each by a commit of its own."""
    index = Index.at(address)
    document_ids = list(live_documents(index.segments(index.current())))
    up.set()
    for document_id in document_ids:
        index.change(partial(_without, index, document_id))
        if stop.wait(PUBLISH_SECONDS):
            return


def _without(index: Index, document_id: str, base: Manifest | None) -> Manifest | None:
    assert base is not None
    return delete_documents(index, base, [document_id], Origin("delete"))


def _swaps_of(address: str) -> int:
    connection = HTTPConnection(urlsplit(address).netloc, timeout=60)
    connection.request("GET", "/metrics")
    lines = connection.getresponse().read().decode().splitlines()
    connection.close()
    return int(float(next(line for line in lines if line.startswith("colonnade_swaps_total ")).split()[1]))


def _quantile(spent: Sequence[float], share: float) -> float | None:
    """Of sorted milliseconds."""
    return round(spent[int(len(spent) * share)], 2) if spent else None

"""Queries that arrive at a fixed rate, whether or not those before were answered; and versions that come meanwhile.

Latency counts from the moment at which a query was to arrive, so what waits for a slow answer is not left out.
"""

from __future__ import annotations

import json
import multiprocessing
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from multiprocessing.synchronize import Event
from urllib.parse import urlsplit

from index_format.change import Origin, delete_documents, live_documents
from index_format.index import Index

CLIENTS = 128  # connections: more than a small queue and a batch hold, so that none waits for another here
PUBLISH_SECONDS = 1.0  # between two versions: a server looks as often


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


class _Asker:
    """Sends queries to a server, a connection for each thread."""

    def __init__(self, address: str) -> None:
        self._netloc = urlsplit(address).netloc
        self._own = threading.local()

    def ask(self, query: str, due: float) -> tuple[int, float, float]:
        """Status, 0 for none; and seconds after `due`, of `time.perf_counter`: of the answer, and of the sending."""
        begun = time.perf_counter()
        status = self._status(query)
        return status, time.perf_counter() - due, begun - due

    def _status(self, query: str) -> int:
        body, headers = json.dumps({"query": query}).encode(), {"Content-Type": "application/json"}
        for _ in range(2):  # the server may have closed a connection that rested, as we wrote to it
            if not hasattr(self._own, "connection"):
                self._own.connection = HTTPConnection(self._netloc, timeout=60)
            try:
                self._own.connection.request("POST", "/v1/search", body, headers)
                response = self._own.connection.getresponse()
                response.read()
            except (OSError, HTTPException):
                self._own.connection.close()
                del self._own.connection
            else:
                return int(response.status)
        return 0


def open_loop(address: str, queries: Sequence[str], rate: float, seconds: float) -> Load:
    """Ask at a rate (queries a second) for some seconds, and wait for what is left."""
    asker, count = _Asker(address), max(1, int(rate * seconds))
    with ThreadPoolExecutor(CLIENTS) as pool:
        start, asked = time.perf_counter() + 0.1, []
        for number in range(count):
            due = start + number / rate
            time.sleep(max(0.0, due - time.perf_counter()))
            asked.append(pool.submit(asker.ask, queries[number % len(queries)], due))
        told = [one.result() for one in asked]
    answered = sorted(1000 * spent for status, spent, _ in told if status == 200)
    refused = sorted(1000 * spent for status, spent, _ in told if status == 503)
    return Load(
        rate=round(rate, 1),
        seconds=seconds,
        sent=count,
        answered=len(answered),
        refused=len(refused),
        failed=count - len(answered) - len(refused),
        p50_ms=_quantile(answered, 0.5),
        p99_ms=_quantile(answered, 0.99),
        refused_p50_ms=_quantile(refused, 0.5),
        refused_p99_ms=_quantile(refused, 0.99),
        late_ms=round(1000 * max(late for _, _, late in told), 2),
    )


def under_swaps(address: str, index: Index, queries: Sequence[str], steady: Load, seconds: float) -> Swaps:
    """The load of `steady` while a process deletes a document of the index every second, each as a new version."""
    before = _swaps_of(address)
    with publishing(index, int(seconds / PUBLISH_SECONDS)):
        load = open_loop(address, queries, steady.rate, seconds)
        swaps = _swaps_of(address) - before
    ratio = round(load.p99_ms / steady.p99_ms, 2) if load.p99_ms and steady.p99_ms else None
    return Swaps(load, swaps, round(60 * swaps / seconds, 1), ratio)


@contextmanager
def publishing(index: Index, versions: int) -> Iterator[None]:
    """Another process publishes versions of an index until the end of this."""
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    publisher = context.Process(target=publish, args=(index.address, versions, stop))
    publisher.start()
    try:
        yield
    finally:
        stop.set()
        publisher.join()


def publish(address: str, versions: int, stop: Event) -> None:
    """Delete one document after another, each by a commit of its own."""
    index = Index.at(address)
    for document_id in list(live_documents(index.segments(index.current())))[:versions]:
        index.change(lambda base, one=document_id: delete_documents(index, base, [one], Origin("delete")))
        if stop.wait(PUBLISH_SECONDS):
            return


def _swaps_of(address: str) -> int:
    connection = HTTPConnection(urlsplit(address).netloc, timeout=60)
    connection.request("GET", "/metrics")
    lines = connection.getresponse().read().decode().splitlines()
    connection.close()
    return int(float(next(line for line in lines if line.startswith("colonnade_swaps_total ")).split()[1]))


def _quantile(spent: Sequence[float], share: float) -> float | None:
    """Of sorted milliseconds."""
    return round(spent[int(len(spent) * share)], 2) if spent else None

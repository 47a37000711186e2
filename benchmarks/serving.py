"""What HTTP and batching cost over the search itself; then arrivals at a fixed rate: steady, under swaps, beyond.

    python -m benchmarks.serving INDEX [--queries 300] [--seconds 30] [--swaps 100]

The server runs in a process of its own, as `colonnade serve` starts it, over a copy of the index, which is a folder:
versions are published to it. Takes about three minutes. Ends with status 1 where a query failed.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

import httpx

from benchmarks.environment import Environment, environment
from benchmarks.open_loop import Load, Swaps, open_loop, under_swaps
from benchmarks.results import default_output, save
from index_format.index import Index

CLIENTS = (1, 4, 16)
BEYOND = 4  # times the answers that 16 clients get: more of them waiting make larger batches, which are quicker


@dataclass(frozen=True, slots=True)
class Arrivals:
    """How a server bears arrivals. capacity: answers a second to 16 clients that never pause."""

    capacity: float
    steady: Load
    swapping: Swaps
    overload: Load
    environment: Environment


@dataclass(frozen=True, slots=True)
class Served:
    """A server of an index, in a process of its own."""

    address: str
    process: subprocess.Popen[str]


@contextmanager
def served(index: str, *options: str, log: IO[str] | int = subprocess.DEVNULL) -> Iterator[Served]:
    """Serve an index as `colonnade serve` does, until the end of this."""
    command = [str(Path(sys.executable).with_name("colonnade")), "serve", index, "--port", "0", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        assert process.stdout is not None
        told = re.search(r"http://\S+", process.stdout.readline())
        assert told is not None, "the server did not start"
        yield Served(told.group(), process)
    finally:
        process.terminate()
        process.wait()


def overhead(address: str, queries: Sequence[str]) -> None:
    """Print the time of a query as a client sees it, and what of it was neither encoding nor search.

    From the first byte of the request to the last of the answer, at a bare socket: what a client's library makes of
    them is its own affair, and `http.client` takes 0.2 to 0.4 ms for it on a slow machine.
    """
    whole, own = [], []
    place = urlsplit(address)
    connection = socket.create_connection((place.hostname, place.port), timeout=60)
    with connection, connection.makefile("rb") as answers:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for query in [*queries[:20], *queries]:
            request = _request(place.netloc, json.dumps({"query": query}).encode())
            start = time.perf_counter()
            connection.sendall(request)
            body = _body(answers)
            whole.append(1000 * (time.perf_counter() - start))
            answer = json.loads(body)
            own.append(answer["encode_ms"] + answer["search_ms"])
    whole, own = whole[20:], own[20:]
    added = [one - other for one, other in zip(whole, own, strict=True)]
    print(
        f"one client: p50 {statistics.median(whole):.2f} ms, encode and search {statistics.median(own):.2f}; "
        f"HTTP and queue add p50 {statistics.median(added):.2f}, least {min(added):.2f}"
    )


def _request(host: str, body: bytes) -> bytes:
    lines = ("POST /v1/search HTTP/1.1", f"Host: {host}", "Content-Type: application/json")
    return "\r\n".join((*lines, f"Content-Length: {len(body)}", "", "")).encode() + body


def _body(answers: IO[bytes]) -> bytes:
    """The body of the next answer: 200, and it says how long it is."""
    status, length = answers.readline(), 0
    assert b" 200 " in status, status
    while line := answers.readline().strip():
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    return answers.read(length)


def throughput(address: str, queries: Sequence[str]) -> float:
    """Print answers a second and the slowest for several clients that never pause; return the last rate."""
    for clients in CLIENTS:
        with httpx.Client(base_url=address, timeout=60) as client, ThreadPoolExecutor(clients) as pool:

            def ask(query: str, client: httpx.Client = client) -> float:
                start = time.perf_counter()
                client.post("/v1/search", json={"query": query}).raise_for_status()
                return 1000 * (time.perf_counter() - start)

            start = time.perf_counter()
            spent = sorted(pool.map(ask, queries))
            rate = len(queries) / (time.perf_counter() - start)
        print(
            f"{clients} clients: {rate:.0f} answers a second, p50 {spent[len(spent) // 2]:.1f} ms, "
            f"p99 {spent[int(len(spent) * 0.99)]:.1f} ms"
        )
    return rate


def overload(index: str, queries: Sequence[str]) -> None:
    """Print how a server with room for eight queries treats 64 clients that never pause, by its own log."""
    with tempfile.TemporaryFile("w+") as log:
        with served(index, "--queue", "8", log=log) as server, ThreadPoolExecutor(64) as pool:
            limits = httpx.Limits(max_connections=64)
            with httpx.Client(base_url=server.address, timeout=60, limits=limits) as client:
                statuses = Counter(
                    pool.map(lambda query: client.post("/v1/search", json={"query": query}).status_code, queries)
                )
        log.seek(0)
        lines = [json.loads(line) for line in log]
    spent = sorted(line["total_ms"] for line in lines if line.get("status") == 503)
    print(
        f"overload: {dict(statuses)}; a refusal took the server p50 {spent[len(spent) // 2]:.2f} ms, "
        f"p99 {spent[int(len(spent) * 0.99)]:.2f} ms"
    )


def arrivals(index: str, queries: Sequence[str], seconds: float, swaps: int, command: str) -> Arrivals:
    """At half of what the server can do, alone and under swaps; and beyond that, with room for 16 queries."""
    started = environment(command)
    with served(index) as server:
        overhead(server.address, queries)
        capacity = throughput(server.address, queries)
        steady = open_loop(server.address, queries, capacity / 2, seconds)
        print("steady:", steady)
        swapping = under_swaps(server.address, Index.at(index), queries, steady, swaps)
        print(f"swaps: p99 {swapping.p99_ratio} times that of steady;", swapping)
    with served(index, "--queue", "16") as server:
        overloaded = open_loop(server.address, queries, capacity * BEYOND, seconds / 2)
        print("overload:", overloaded)
    return Arrivals(round(capacity, 1), steady, swapping, overloaded, started)


def faults_of(measured: Arrivals, swaps: int) -> list[str]:
    """What went wrong: at half of what a server can do nothing may; beyond it, it may refuse and not fail."""
    faults = []
    for name, load in (("steady", measured.steady), ("under swaps", measured.swapping.load)):
        if load.failed or load.refused:
            faults.append(f"{name}: {load.failed} failed, {load.refused} refused")
    if measured.overload.failed:
        faults.append(f"overload: {measured.overload.failed} failed")
    if measured.swapping.swaps < swaps:
        faults.append(f"{measured.swapping.swaps} swaps of {swaps}: has the index as many documents?")
    return faults


def main() -> None:
    """Measure an index, print and keep the result."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__)
    parser.add_argument("index")
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--seconds", type=float, default=30, help="of steady arrivals: %(default)s")
    parser.add_argument("--swaps", type=int, default=100, help="versions that come under load: %(default)s")
    parser.add_argument("--output", type=Path, default=default_output("serving"), help="JSON file of the result")
    arguments = parser.parse_args()
    words = ("list", "file", "thread", "string", "number", "parse", "folder", "socket", "time", "error")
    queries = [f"how to {words[n % 10]} a {words[n // 10 % 10]} {n}" for n in range(arguments.queries)]
    command = " ".join(["python -m benchmarks.serving", *sys.argv[1:]])
    with tempfile.TemporaryDirectory() as folder:
        copied = str(shutil.copytree(arguments.index, Path(folder) / "index"))
        overload(copied, queries * 4)
        measured = arrivals(copied, queries, arguments.seconds, arguments.swaps, command)
    save(arguments.output, "serving", measured)
    if faults := faults_of(measured, arguments.swaps):
        raise SystemExit("; ".join(faults))


if __name__ == "__main__":
    main()

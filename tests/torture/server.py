"""A real `colonnade serve` process under queries that come at a fixed rate: swaps, slow clients, overload, SIGTERM.

Every answer is held against the version that it names. While versions are swapped no query fails. Beyond its queue the
server refuses at once and says when to come back. When it is told to stop, whatever reached it before is answered, and
the process ends with status 0.
"""

from __future__ import annotations

import itertools
import json
import random
import statistics
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import httpx

from benchmarks.open_loop import NO_ANSWER, TORN, Asked, Load, ask_at_rate, load_of, p99_ratio
from benchmarks.serving import Served, served
from colonnade.server import DRAIN_SECONDS
from encoding.encoder import load_encoder
from index_format.index import Index
from serving.search import search
from serving.snapshot import open_snapshot
from tests.serving.vectors import add_texts
from tests.strategies import WORDS, delete
from tests.torture.disk import in_memory
from tests.torture.registry import Step
from tests.torture.slow_clients import MOST_SECONDS, never_reading, slow_clients

QUERIES = ("harbour lantern", "what is a copper violin?", "ember", "a meadow by the glacier, and saffron")
SWAPS_A_STOP = 5  # so many swaps to one SIGTERM
RATE = 20.0  # queries a second, which leave a core half idle
SHORT_RATE = 4.0  # of a run with few swaps: the suite has other work for the cores
FEW = 20
STOP_RATE = 100.0  # some wait when the signal comes
QUEUE = 48
AT_ONCE = 200  # queries that come together: more than wait, and are at work
DEADLINE_SECONDS = 30
REFUSAL_MS = 200  # half of the refusals take less: a tenth of what an answer takes then, on a machine that is not idle
UNDER_WAY_SECONDS = 1.5  # after it was sent a query has reached the server, whatever else the machine does
DOCUMENTS = 12
_K = 2 * DOCUMENTS

Found = tuple[str, str, float]


class History:
    """An index that gains or loses a document with each version, and the right answers of them all."""

    def __init__(self, folder: Path, rng: random.Random) -> None:
        self.index = Index.at(folder / "index")
        self._encoder, self._rng = load_encoder("embedded"), rng
        self._vectors = self._encoder.encode_queries(QUERIES)
        self._right: dict[int, list[list[Found]]] = {}
        self._live: list[str] = []
        self._add(DOCUMENTS)
        # By vectors and by text: the first must have every score to the bit, the others go through the encoder.
        asked = [{"vectors": vectors.tolist()} for vectors in self._vectors] + [{"query": text} for text in QUERIES]
        options = {"k": _K, "recall": "exact", "fields": ["text"]}
        self.bodies = [json.dumps({**one, **options}).encode() for one in asked]

    def change(self) -> int:
        """Add a document or delete one, as the version that is returned."""
        few, many = len(self._live) <= DOCUMENTS // 2, len(self._live) >= _K
        if many or (not few and self._rng.random() < 0.5):
            delete(self.index, self._live.pop(self._rng.randrange(len(self._live))))
            return self._remember()
        return self._add(1)

    def check(self, asked: Asked) -> None:
        """Raise AssertionError unless an answer is that of the version which it names."""
        answer = json.loads(asked.told.answer)
        right = self._right[answer["version"]][asked.body % len(QUERIES)]
        found = [(hit["document_id"], hit["text"], hit["score"]) for hit in answer["hits"]]
        if asked.body >= len(QUERIES):
            found, right = _whatever_the_score(found), _whatever_the_score(right)
        assert found == right, f"version {answer['version']}, body {asked.body}: found {found}, expected {right}"

    def _add(self, count: int) -> int:
        version = len(self._right) + 1
        texts = {f"{version}-{number}": " ".join(self._rng.choices(WORDS, k=6)) for number in range(count)}
        add_texts(self.index, self._encoder, texts)
        self._live += texts
        return self._remember()

    def _remember(self) -> int:
        snapshot = open_snapshot(self.index)
        hits = [search(snapshot, vectors, _K, recall="exact") for vectors in self._vectors]
        self._right[snapshot.version] = [[(one.document_id, one.text, one.score) for one in own] for own in hits]
        return snapshot.version


def _whatever_the_score(found: list[Found]) -> list[Found]:
    return sorted((document, text, 0.0) for document, text, _ in found)


@dataclass(frozen=True, slots=True)
class Stop:
    """What became of a server that was told to stop. after: answers that came after the signal."""

    answers: int
    after: int
    turned_away: int
    seconds: float


def run(count: int, seed: int, step: Step) -> str:
    """Swap `count` versions, overload the server, and send a SIGTERM for every five of them."""
    rng, when = random.Random(seed), f"seed {seed}"
    with tempfile.TemporaryDirectory(dir=in_memory()) as folder:
        history, log = History(Path(folder), rng), Path(folder) / "log"
        with _server(history, log) as server:
            with slow_clients(server.address) as slow:
                swaps = _swaps(server, history, count, when, step)
                overload = _overload(server, log, when)
                assert slow.longest < MOST_SECONDS, f"{when}: a client that drips was borne {slow.longest:.0f} s"
            stops = [_stop(server, history, rng, when)]
        for number in range(1, max(1, count // SWAPS_A_STOP)):
            with _server(history, log) as server:
                waited_for = never_reading(server.address) if number == 1 else nullcontext()
                with waited_for:
                    stops.append(_stop(server, history, rng, f"{when}, SIGTERM {number}"))
        faults = [line for line in log.read_text().splitlines() if '"level": "error"' in line or "Traceback" in line]
        assert not faults, f"{when}: the server logged {faults[:3]}"
    answers, after = sum(one.answers for one in stops), sum(one.after for one in stops)
    return (
        f"{swaps}; {overload}; {slow.ended} slow clients ended, the slowest after {slow.longest:.1f} s; {len(stops)} "
        f"SIGTERMs under load: {answers:,} answers, {after} of them after it, 0 lost, "
        f"{sum(one.turned_away for one in stops):,} later ones turned away, "
        f"ended within {max(one.seconds for one in stops):.1f} s"
    )


@contextmanager
def _server(history: History, log: Path) -> Iterator[Served]:
    options = ("--queue", str(QUEUE), "--deadline", str(DEADLINE_SECONDS))
    with log.open("a") as file, served(history.index.address, *options, log=file) as server:
        yield server


def _swaps(server: Served, history: History, count: int, when: str, step: Step) -> str:
    """Steady load, then the same while each version is published once the one before is served."""
    seconds, rate = max(1.0, count / 4), SHORT_RATE if count < FEW else RATE
    steady = _all_right(server, history, rate, lambda spent: spent < seconds, f"{when}, steady")
    with ThreadPoolExecutor(1) as pool:
        publishing = pool.submit(_publish, server, history, count, step)
        swapping = _all_right(server, history, rate, lambda _: not publishing.done(), f"{when}, under swaps")
        slowest = max(publishing.result())
    return (
        f"{count} swaps under {rate:g} queries a second: {steady.answered + swapping.answered:,} answers, each that of "
        f"its version, 0 failed, p99 {swapping.p99_ms} ms, {p99_ratio(swapping, steady)} times that of steady, at most "
        f"{slowest:.1f} s from a commit until it is served"
    )


def _all_right(server: Served, history: History, rate: float, more: Callable[[float], bool], when: str) -> Load:
    begun = time.perf_counter()
    asked = ask_at_rate(server.address, history.bodies, rate, more, keep=True)
    statuses = Counter(one.told.status for one in asked)
    assert set(statuses) == {200}, f"{when}: {dict(statuses)}"
    for one in asked:
        history.check(one)
    return load_of(asked, rate, time.perf_counter() - begun)


def _publish(server: Served, history: History, count: int, step: Step) -> list[float]:
    """Seconds from each commit until it was served."""
    waited = []
    with httpx.Client(base_url=server.address, timeout=60) as client:
        for _ in range(count):
            version, committed = history.change(), time.perf_counter()
            while client.get("/v1/index").raise_for_status().json()["version"] < version:
                assert time.perf_counter() < committed + 60, f"version {version} is not served after a minute"
                time.sleep(0.05)
            waited.append(time.perf_counter() - committed)
            step()
    return waited


def _overload(server: Served, log: Path, when: str) -> str:
    """More long queries at once than may wait."""
    body = json.dumps({"query": "harbour lantern copper " * 20, "k": 1}).encode()
    sent = itertools.count()
    asked = ask_at_rate(server.address, [body], 1e6, lambda _: next(sent) < AT_ONCE)
    statuses = Counter(one.told.status for one in asked)
    assert set(statuses) == {200, 503}, f"{when}, overload: {dict(statuses)}"
    refused = [one for one in asked if one.told.status == 503]
    assert all(int(one.told.retry_after or 0) >= 1 for one in refused), (
        f"{when}, overload: a refusal without Retry-After"
    )
    late = max(one.answered - one.begun for one in asked)
    assert late < DEADLINE_SECONDS, f"{when}, overload: an answer took {late:.0f} s"
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    spent = sorted(line["total_ms"] for line in lines if line.get("status") == 503)
    median, slowest = statistics.median(spent), spent[int(0.99 * len(spent))]
    assert median < REFUSAL_MS, f"{when}, overload: a refusal takes {median:.0f} ms"
    return (
        f"{AT_ONCE} queries at once: {statuses[200]} answered within {late:.1f} s, {len(refused)} refused with "
        f"Retry-After, which took the server p50 {median:.2f} ms, p99 {slowest:.2f} ms"
    )


def _stop(server: Served, history: History, rng: random.Random, when: str) -> Stop:
    """Send SIGTERM while queries come."""
    with ThreadPoolExecutor(1) as pool:
        ending = pool.submit(_terminate, server.process, UNDER_WAY_SECONDS + rng.uniform(0.5, 1.5))
        asked = ask_at_rate(server.address, history.bodies, STOP_RATE, lambda _: not ending.done(), tries=1, keep=True)
        signalled, ended = ending.result()
    assert server.process.returncode == 0, f"{when}: exit status {server.process.returncode}"
    statuses = Counter(one.told.status for one in asked)
    assert set(statuses) <= {200, 503, NO_ANSWER}, f"{when}: {dict(statuses)}, of which {statuses[TORN]} torn"
    unanswered = [one for one in asked if one.told.status == NO_ANSWER]
    lost = [one for one in unanswered if one.told.sent and one.told.sent < signalled - UNDER_WAY_SECONDS]
    assert not lost, f"{when}: {len(lost)} queries had reached the server and were not answered"
    answered = [one for one in asked if one.told.status == 200]
    for one in answered:
        history.check(one)
    return Stop(
        answers=len(answered),
        after=sum(one.answered > signalled for one in answered),
        turned_away=len(unanswered),
        seconds=ended - signalled,
    )


def _terminate(process: subprocess.Popen[str], seconds: float) -> tuple[float, float]:
    """When the signal was sent, after some seconds; and when the process had ended."""
    time.sleep(seconds)
    signalled = time.perf_counter()
    process.terminate()
    process.wait(DRAIN_SECONDS + 30)
    return signalled, time.perf_counter()

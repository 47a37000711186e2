"""Check the kernels of a GPU against the definition of a score, then time them: python -m benchmarks.gpu

One script for a machine with a GPU, done in less than ten minutes there. Without one it only checks, on tiny sizes,
through Triton's interpreter.

Codes are drawn at random on the device: speed does not depend on what they say. So only the last part, beside
fast-plaid where it is installed, has vectors that could have come from texts.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before the kernels are imported

from benchmarks.environment import Environment, environment
from benchmarks.gpu_check import check, random_query
from benchmarks.gpu_index import drawn_on_device
from benchmarks.results import default_output, save
from index_format.codebook import Codebook
from index_format.codec import Codec
from serving.approximate import CodedCentroids
from serving.candidates import score_candidates
from serving.gpu.launches import Tiling, parts_for, score_all, tiling_for
from serving.gpu.query import pack, views
from serving.gpu.resident import Resident
from serving.gpu.scorer import GpuScorer
from serving.scoring import prepare_query

QUERY_TOKENS = 32
K = 10
CANDIDATES = 1024
BATCH = 64
WARM = 5
ROUNDS = 50
SECONDS = 20.0  # after which a latency is not asked for again
RATED_PASSAGES = 400_000
EXHAUSTIVE_TARGET = 2e10


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds of one query, from its vectors in host memory to the hits there. targets: the design's, for p50."""

    passages: int
    tokens: int
    bits: int
    dim: int
    how: str
    p50_ms: float
    p95_ms: float
    target_ms: float | None
    queries: int
    device_gib: float


@dataclass(frozen=True, slots=True)
class Rate:
    """Token vectors scored exhaustively in a second by the kernels alone, each with `QUERY_TOKENS` query vectors."""

    bits: int
    dim: int
    tokens_per_passage: int
    tile_tokens: int
    warps: int
    programs: int
    tokens_a_second: float
    target: float | None


@dataclass(frozen=True, slots=True)
class Throughput:
    """Queries a second of a batch of `BATCH`, asked by some threads."""

    passages: int
    how: str
    threads: int
    queries_a_second: float
    target: float | None


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that one run found. checked: how many passages' scores equalled the definition."""

    environment: Environment
    device: str
    checked: int
    rates: list[Rate]
    latencies: list[Latency]
    throughputs: list[Throughput]
    beside_fast_plaid: dict[str, float] | None
    seconds: float


def main(arguments: list[str]) -> None:
    """Check, time where there is a GPU, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, help="where results go  [default: today's under benchmarks/results]")
    parser.add_argument("--passages", type=int, default=10_000_000, help="of the largest index; less memory, less time")
    given = parser.parse_args(arguments)
    started, gpu = time.perf_counter(), torch.cuda.is_available()
    checked = check(torch.device("cuda" if gpu else "cpu"), thorough=gpu)
    say(f"{checked} scores equal their definition")
    if not gpu and given.output is None:
        say("No GPU here: nothing is timed.")
        return
    report = Report(
        environment=environment(" ".join(["python -m benchmarks.gpu", *arguments]), ("torch", "numpy", "triton")),
        device=torch.cuda.get_device_name() if gpu else "none: interpreted",
        checked=checked,
        rates=[],
        latencies=[],
        throughputs=[],
        beside_fast_plaid=None,
        seconds=time.perf_counter() - started,
    )
    output = given.output or default_output("gpu")
    save(output, "gpu", report)
    if gpu:
        for step in (measure_rates, measure_one_million, measure_largest, measure_beside_fast_plaid):
            report = replace(step(report, given.passages), seconds=time.perf_counter() - started)
            save(output, "gpu", report)  # after each step: a run that is stopped has told what it found
            torch.cuda.empty_cache()
    say(f"written to {output}")


def measure_rates(report: Report, _passages: int) -> Report:
    """The kernels alone, by bits, and at 4 bits and 128 dimensions by tile."""
    for bits, dim, length in ((4, 128, 100), (2, 128, 100), (8, 128, 100), (4, 384, 150)):
        resident = drawn_on_device(RATED_PASSAGES, length, bits=bits, dim=dim, centroids=1024)
        chosen, targeted = tiling_for(resident), (bits, dim) == (4, 128)
        others = itertools.product((16, 32, 64), (1, 2, 4), (chosen.programs // 2, chosen.programs))
        for tiling in [chosen, *(Tiling(*one) for one in others if targeted)]:
            speed = resident.tokens / kernel_seconds(resident, tiling)
            tile = (tiling.tokens, tiling.warps, tiling.programs)
            report.rates.append(Rate(bits, dim, length, *tile, speed, EXHAUSTIVE_TARGET if targeted else None))
            say(report.rates[-1])
    return report


def kernel_seconds(resident: Resident, tiling: Tiling) -> float:
    """Seconds of the device for scoring all passages."""
    lanes = views(torch.from_numpy(pack_random(resident)).to(resident.device), resident.dim)
    found, totals = (torch.ones(resident.passages, dtype=kind, device="cuda") for kind in (torch.uint8, torch.float32))
    parts = parts_for(resident, lanes[0], tiling)
    return device_seconds(lambda: score_all(resident, lanes, found, totals, parts, tiling))


def pack_random(resident: Resident) -> NDArray[np.uint8]:
    """A query at random, as the device gets it."""
    codec = Codec(np.zeros(resident.dim, np.float32), resident.bits)
    centroids = CodedCentroids.of(Codebook.of(random_query(1, resident.dim)))
    return pack(prepare_query(random_query(QUERY_TOKENS, resident.dim), codec), centroids)


def device_seconds(work: Callable[[], None]) -> float:
    """Median seconds of some work on the device."""
    times = []
    for at in range(3 + 10):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        begin.record()
        work()
        end.record()
        end.synchronize()
        if at >= 3:
            times.append(begin.elapsed_time(end) / 1000)
    return float(statistics.median(times))


def measure_one_million(report: Report, _passages: int) -> Report:
    """A million passages of 100 tokens: one query, and a batch."""
    resident = drawn_on_device(1_000_000, 100, bits=4, dim=128, centroids=65_536)
    ask = Asking(resident)
    report.latencies.append(latency(ask, ask.whole, "all passages", target=3.0))
    report.latencies.append(latency(ask, ask.candidates, f"{CANDIDATES} candidates", target=None))
    for threads in (1, 2, 4):
        for how, work in (("all passages", ask.whole), (f"{CANDIDATES} candidates", ask.candidates)):
            report.throughputs.append(Throughput(1_000_000, how, threads, batch_rate(work, threads), 2000.0))
            say(report.throughputs[-1])
    for vectors in (12, QUERY_TOKENS):
        rate, how = ask.together(vectors), f"all passages, {vectors} vectors, together"
        report.throughputs.append(Throughput(1_000_000, how, 1, rate, 2000.0))
        say(report.throughputs[-1])
    return report


def measure_largest(report: Report, passages: int) -> Report:
    """Ten million passages of 100 tokens at 2 bits."""
    resident = drawn_on_device(passages, 100, bits=2, dim=128, centroids=131_072)
    ask = Asking(resident)
    report.latencies.append(latency(ask, ask.candidates, f"{CANDIDATES} candidates", target=5.0))
    return report


class Asking:
    """Queries over a resident index, from vectors in host memory to hits there."""

    def __init__(self, resident: Resident) -> None:
        self.resident = resident
        codec = Codec(np.zeros(resident.dim, np.float32), resident.bits)
        centroids = CodedCentroids(
            resident.centroid_codes.cpu().numpy(),
            resident.centroid_scales.cpu().numpy(),
            np.zeros(len(resident.centroid_scales), np.float32),
            np.zeros(resident.dim, np.float32),
            np.float32(1),
        )
        self._scorer = GpuScorer(resident, codec, centroids)
        self._found = np.ones(resident.passages, bool)
        self._queries = [random_query(QUERY_TOKENS, resident.dim, seed) for seed in range(BATCH)]

    def whole(self, number: int) -> None:
        """The best of all passages."""
        self._scorer.prepare(self._queries[number % BATCH], self._found).best(K)

    def candidates(self, number: int) -> None:
        """The best of a fixed number of candidates."""
        scorer = self._scorer.prepare(self._queries[number % BATCH], self._found)
        score_candidates(scorer.approximate(), K, first=CANDIDATES, tolerance=np.inf)

    def together(self, vectors: int) -> float:
        """Queries a second of a batch of `BATCH`, of so many vectors each, that share launches."""
        queries = [random_query(vectors, self.resident.dim, seed) for seed in range(BATCH)]
        for _ in range(2):  # at first kernels are compiled and graphs recorded
            started = time.perf_counter()
            for own in self._scorer.sharing([vectors] * BATCH):
                self._scorer.best_of_several([queries[place] for place in own], self._found, K)
            seconds = time.perf_counter() - started
        return BATCH / seconds


def latency(ask: Asking, work: Callable[[int], None], how: str, target: float | None) -> Latency:
    times: list[float] = []
    began = time.perf_counter()
    for number in range(WARM + ROUNDS):
        start = time.perf_counter()
        work(number)
        if number >= WARM:
            times.append(1000 * (time.perf_counter() - start))
        if time.perf_counter() - began > SECONDS and times:
            break
    own = ask.resident
    p50, p95 = np.percentile(times, [50, 95]).tolist()
    memory = torch.cuda.max_memory_allocated() / 2**30
    found = Latency(own.passages, own.tokens, own.bits, own.dim, how, p50, p95, target, len(times), memory)
    say(found)
    return found


def batch_rate(work: Callable[[int], None], threads: int) -> float:
    """Queries a second of a batch that some threads share."""
    with ThreadPoolExecutor(threads) as pool:
        started = time.perf_counter()
        list(pool.map(work, range(BATCH)))
        return BATCH / (time.perf_counter() - started)


def measure_beside_fast_plaid(report: Report, _passages: int) -> Report:
    """The same clustered vectors in fast-plaid's index on the GPU and in ours, at 4 bits, its defaults and ours."""
    try:
        import fast_plaid  # noqa: F401
    except ImportError:
        say("fast-plaid is not installed here: not compared")
        return report
    from benchmarks.gpu_peer import beside_fast_plaid

    with tempfile.TemporaryDirectory() as folder:
        figures: dict[str, Any] = beside_fast_plaid(Path(folder), k=K)
    say(figures)
    return replace(report, beside_fast_plaid=figures)


def say(what: object) -> None:
    print(what, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])

"""Search against the peers: the same vectors, queries and threads, in one run, taking turns.

    python -m benchmarks.search DATA_FOLDER --peers PYTHON

PYTHON is that of the peers' own environment (`make bench` makes it). Each engine is a process of its own; they
take turns at the same queries, so that a busy machine is busy for all. Recall is the share of the exact top k,
by float32 MaxSim on the same vectors. Indexes are built on all cores, whatever the threads of a search: their cost is
told in processor time too.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress

from benchmarks.environment import Environment, environment
from benchmarks.results import save
from benchmarks.search_report import print_comparison
from benchmarks.vectors import prepare_vectors

K = 100
_WARM = 5  # queries of a point that are asked before any is timed
_ENGINES = Path(__file__).parent / "engines"
_ROOT = Path(__file__).parent.parent


@dataclass(frozen=True, slots=True)
class Point:
    """One way to run an engine. A slow one is asked only every nth query."""

    engine: str
    name: str
    bits: int
    parameters: dict[str, Any] = field(default_factory=dict)
    every: int = 1


POINTS = [
    *(
        Point("colonnade", f"{bits} bits, {recall}", bits, {"recall": recall}, 4 if recall == "exact" else 1)
        for bits in (4, 2, 8)
        for recall in ("fast", "balanced", "exact")
    ),
    Point("colonnade", "4 bits, 100 candidates", 4, {"candidates": K}),
    Point("xtr-warp-rs", "4 bits, default", 4),
    Point("xtr-warp-rs", "4 bits, nprobe 32", 4, {"nprobe": 32}),
    Point(
        "xtr-warp-rs",
        "4 bits, nprobe 128, bound 1024, no threshold",
        4,
        {"nprobe": 128, "bound": 1024, "centroid_score_threshold": 0.0, "max_candidates": 800_000},
    ),
    Point("fast-plaid", "4 bits, n_full 1024", 4, {"n_full_scores": 1024}, every=6),
    Point("fast-plaid", "4 bits, default", 4, every=12),
    Point("torch", "exact float32", 32, every=6),
]


@dataclass(frozen=True, slots=True)
class Outcome:
    """One point's figures. milliseconds: p50 and p95 of a query. recall: share of the exact top 10 and top 100."""

    engine: str
    point: str
    queries: int
    p50_ms: float
    p95_ms: float
    queries_a_second: float
    recall_10: float
    recall_100: float


@dataclass(frozen=True, slots=True)
class Built:
    """One index: how long it took, what it takes on disk and, opened, in memory."""

    engine: str
    bits: int
    seconds: float
    cpu_seconds: float
    bytes_per_token: float
    bytes_per_passage: float
    resident_bytes: int
    change_seconds: dict[str, float]


@dataclass(frozen=True, slots=True)
class Comparison:
    """All of a run."""

    passages: int
    tokens: int
    query_tokens: float
    threads: int
    built: list[Built]
    outcomes: list[Outcome]
    environment: Environment


class EngineProcess:
    """An engine in its own process and environment."""

    def __init__(self, name: str, peers: Path, vectors: Path, threads: int) -> None:
        command = {
            "colonnade": [sys.executable, "-m", "benchmarks.engines.colonnade_engine"],
            "torch": [str(peers), str(_ENGINES / "torch_exact.py")],
            "fast-plaid": [str(peers), str(_ENGINES / "fast_plaid_engine.py")],
            "xtr-warp-rs": [str(peers), str(_ENGINES / "xtr_warp_engine.py")],
        }[name]
        limits = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"), str(threads))
        self._process = subprocess.Popen(
            [*command, str(vectors), str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=_ROOT,
            env=os.environ | limits,
        )

    def ask(self, **request: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"an engine stopped with exit status {self._process.wait()}; its message is above.")
        return json.loads(line)

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


@contextmanager
def _engine(name: str, peers: Path, vectors: Path, threads: int) -> Iterator[EngineProcess]:
    engine = EngineProcess(name, peers, vectors, threads)
    try:
        yield engine
    finally:
        engine.close()


def build_all(points: list[Point], peers: Path, vectors: Path, threads: int, progress: Progress) -> list[Built]:
    """Build what is not built yet, one engine after another; figures of earlier builds are kept beside them."""
    wanted = list(dict.fromkeys((point.engine, point.bits) for point in points))
    task = progress.add_task("build", total=len(wanted))
    built = []
    for name, bits in wanted:
        progress.update(task, description=f"build {name}, {bits} bits")
        folder, record = vectors / f"{name}-{bits}", vectors / f"{name}-{bits}-{threads}.json"
        if not record.exists():
            shutil.rmtree(folder, ignore_errors=True)
            with _engine(name, peers, vectors, threads) as engine:
                figures = engine.ask(do="build", folder=str(folder), bits=bits)
            record.write_text(json.dumps(figures), encoding="utf-8")
        built.append(_measure_built(name, bits, folder, json.loads(record.read_text()), peers, vectors, threads))
        progress.advance(task)
    return built


def _measure_built(
    name: str, bits: int, folder: Path, figures: dict[str, float], peers: Path, vectors: Path, threads: int
) -> Built:
    offsets = np.load(vectors / "offsets.npy")
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    with _engine(name, peers, vectors, threads) as engine:
        resident = engine.ask(do="open", folder=str(folder))["resident_bytes"]
        change = {}
        if name == "colonnade":
            copy = folder.with_name(f"{folder.name}-changed")
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(folder, copy)
            engine.ask(do="open", folder=str(copy))
            first = engine.ask(do="change")  # compiles kernels, which a process does once
            change = {"first_add_1_percent": first["add_1_percent"], **engine.ask(do="change")}
            shutil.rmtree(copy)
    return Built(
        engine=name,
        bits=bits,
        seconds=figures["seconds"],
        cpu_seconds=figures["cpu_seconds"],
        bytes_per_token=size / int(offsets[-1]),
        bytes_per_passage=size / (len(offsets) - 1),
        resident_bytes=resident,
        change_seconds=change,
    )


def search_all(
    points: list[Point], peers: Path, vectors: Path, threads: int, rounds: int, progress: Progress
) -> list[Outcome]:
    """Ask all points all their queries, in rounds in which they take turns."""
    truth, lengths = exact_top(vectors), np.diff(np.load(vectors / "query_offsets.npy"))
    # Opened once for each index: the points of an index share its process.
    indexes = dict.fromkeys((point.engine, point.bits) for point in points)
    engines = {key: EngineProcess(key[0], peers, vectors, threads) for key in indexes}
    for (name, bits), engine in engines.items():
        engine.ask(do="open", folder=str(vectors / f"{name}-{bits}"))
    parts = np.array_split(np.arange(len(truth)), rounds)
    times: list[list[float]] = [[] for _ in points]
    recalls: list[list[tuple[float, float]]] = [[] for _ in points]
    task = progress.add_task("search", total=rounds * len(points))
    for part in parts:
        for number, point in enumerate(points):
            queries = part[:: point.every].tolist()
            progress.update(task, description=f"search {point.engine}, {point.name}")
            engine = engines[point.engine, point.bits]
            warm = [] if times[number] else _of_all_lengths(queries, lengths)
            answer = engine.ask(do="search", queries=warm + queries, k=K, point=point.parameters)
            times[number] += answer["milliseconds"][len(warm) :]
            hits = answer["hits"][len(warm) :]
            recalls[number] += [_recall(found, truth[query]) for query, found in zip(queries, hits, strict=True)]
            progress.advance(task)
    for engine in engines.values():
        engine.close()
    return [_outcome(*one) for one in zip(points, times, recalls, strict=True)]


def _of_all_lengths(queries: list[int], lengths: np.ndarray[Any, np.dtype[np.int64]]) -> list[int]:
    """A few of the queries, from the shortest to the longest: an engine may compile something for each length."""
    by_length = sorted(queries, key=lambda query: int(lengths[query]))
    return [by_length[place] for place in np.linspace(0, len(queries) - 1, _WARM, dtype=int)]


def exact_top(vectors: Path) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The best K passages of each query by float32 MaxSim: int64 [queries, K], kept beside the vectors."""
    file = vectors / f"exact-{K}.npy"
    if not file.exists():
        np.save(file, _exact_top(vectors))
    best: np.ndarray[Any, np.dtype[np.int64]] = np.load(file)
    return best


def _exact_top(vectors: Path) -> np.ndarray[Any, np.dtype[np.int64]]:
    tokens, offsets = np.load(vectors / "tokens.npy", mmap_mode="r"), np.load(vectors / "offsets.npy")
    asked, ends = np.load(vectors / "queries.npy"), np.load(vectors / "query_offsets.npy")
    scores = np.empty((len(ends) - 1, len(offsets) - 1), np.float32)
    for first in range(0, len(offsets) - 1, 256):
        last = min(first + 256, len(offsets) - 1)
        block = np.asarray(tokens[offsets[first] : offsets[last]], np.float32) @ asked.T
        best = np.maximum.reduceat(block, offsets[first:last] - offsets[first], axis=0)
        scores[:, first:last] = np.add.reduceat(best, ends[:-1], axis=1).T
    return np.argsort(-scores, axis=1, kind="stable")[:, :K]


def _recall(found: list[int], truth: np.ndarray[Any, np.dtype[np.int64]]) -> tuple[float, float]:
    return len(set(found[:10]) & set(truth[:10].tolist())) / 10, len(set(found) & set(truth.tolist())) / len(truth)


def _outcome(point: Point, times: list[float], recalls: list[tuple[float, float]]) -> Outcome:
    ten, hundred = np.mean(np.array(recalls), axis=0)
    return Outcome(
        engine=point.engine,
        point=point.name,
        queries=len(times),
        p50_ms=float(np.percentile(times, 50)),
        p95_ms=float(np.percentile(times, 95)),
        queries_a_second=1000 * len(times) / sum(times),
        recall_10=float(ten),
        recall_100=float(hundred),
    )


def main() -> None:
    """Measure what the command line asks for, print one table and keep all figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.search", description=__doc__)
    parser.add_argument("data", type=Path, help="folder of collections")
    parser.add_argument("--peers", type=Path, required=True, help="the Python of the peers' environment")
    parser.add_argument("--passages", type=int, default=10_000, help="how many passages (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="threads of each engine (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="turns that the engines take (default: %(default)s)")
    parser.add_argument("--engines", default="colonnade,xtr-warp-rs,fast-plaid,torch", help="by commas")
    parser.add_argument("--output", type=Path, default=None, help="JSON file to add the results to")
    arguments = parser.parse_args()
    started = environment(" ".join(["python -m benchmarks.search", *sys.argv[1:]]))
    vectors = prepare_vectors(arguments.data, arguments.passages)
    points = [point for point in POINTS if point.engine in arguments.engines.split(",")]
    offsets, ends = np.load(vectors / "offsets.npy"), np.load(vectors / "query_offsets.npy")
    console = Console(width=max(140, Console().width))
    with Progress(console=console) as progress:
        built = build_all(points, arguments.peers, vectors, os.cpu_count() or 1, progress)
        outcomes = search_all(points, arguments.peers, vectors, arguments.threads, arguments.rounds, progress)
    comparison = Comparison(
        passages=len(offsets) - 1,
        tokens=int(offsets[-1]),
        query_tokens=float(np.diff(ends).mean()),
        threads=arguments.threads,
        built=built,
        outcomes=outcomes,
        environment=started,
    )
    output = arguments.output or _ROOT / "benchmarks/results" / f"search-{started.date[:10]}.json"
    save(output, f"{arguments.passages} passages, {arguments.threads} threads", comparison)
    print_comparison(console, comparison)


if __name__ == "__main__":
    main()

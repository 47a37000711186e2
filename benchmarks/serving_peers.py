"""Serving against a peer: `colonnade serve`, and fast-plaid behind the thinnest possible server.

    python -m benchmarks.serving_peers DATA_FOLDER --peers PYTHON

The same machine, vectors and queries as benchmarks.search has, and as many threads for each as there are cores.
Requests bring token vectors: JSON to Colonnade, as its API has it, and raw bytes to the thin server. Clients never
pause; of each answer the passages are held against the exact top ten. PYTHON is that of the peers' own environment
(`make bench-serving` makes it). Below stand figures that a peer publishes of itself, on other machines.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from http.client import HTTPConnection
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import numpy as np
import torch
import transformers
from rich.console import Console
from rich.progress import Progress

from benchmarks.engines.colonnade_engine import Colonnade
from benchmarks.engines.protocol import read_vectors
from benchmarks.environment import Environment, environment
from benchmarks.report import Figures, print_table
from benchmarks.results import default_output, save
from benchmarks.search import Point, build_all, exact_top
from benchmarks.serving import CLIENTS, served
from benchmarks.vectors import DIM, prepare_vectors
from encoding.checkpoint import EMBEDDED
from encoding.encoder import load_encoder
from encoding.location import locate

K = 10
THREADS = os.cpu_count() or 1  # what `colonnade serve` takes for a query
POINTS = [
    Point("colonnade serve", "4 bits, balanced", 4, {"recall": "balanced"}),
    Point("colonnade serve", "4 bits, fast", 4, {"recall": "fast"}),
    Point("fast-plaid, thin server", "4 bits, n_full 1024", 4, {"n_full_scores": 1024}),
    Point("fast-plaid, thin server", "4 bits, default", 4),
]
_THIN_SERVER = Path(__file__).parent / "engines" / "thin_server.py"
_TOKENIZER = ("vocab.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


@dataclass(frozen=True, slots=True)
class Published:
    """What a peer says of itself, on a machine that we do not have."""

    engine: str
    what: str
    clients: int
    p95_ms: float
    requests_a_second: float


_NEXT_PLAID = "next-plaid 1.6.1 (theirs)"
_THEIR_GPU = "NVIDIA H100 80GB"
_THEIR_CPU = "CPU of that machine, INT8 ONNX"
# README of https://github.com/lightonai/next-plaid at e949d62, "API Benchmarks": GTE-ModernColBERT-v1, texts of
# queries in, their encoding included, top 100, n_ivf_probe 8, n_full_scores 4096, 16 workers that never pause.
# Of their six collections, ours and those with their fewest and most answers a second.
PUBLISHED = [
    Published(_NEXT_PLAID, f"scifact, 5,183 documents, {_THEIR_GPU}", 16, 169.5, 7.9),
    Published(_NEXT_PLAID, f"scifact, 5,183 documents, {_THEIR_CPU}", 16, 305.4, 16.9),
    Published(_NEXT_PLAID, f"nfcorpus, 3,633 documents, {_THEIR_GPU}", 16, 262.1, 6.6),
    Published(_NEXT_PLAID, f"quora, 522,931 documents, {_THEIR_GPU}", 16, 126.2, 20.9),
]
THEIR_SETUP = "GTE-ModernColBERT-v1, text in, encoding included, top 100"


@dataclass(frozen=True, slots=True)
class Outcome:
    """One way to ask one server. recall_10: share of the exact top ten in the answers that were timed."""

    engine: str
    point: str
    clients: int
    requests: int
    p50_ms: float
    p95_ms: float
    requests_a_second: float
    recall_10: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """All of a run. seconds: of each outcome."""

    passages: int
    tokens: int
    query_tokens: float
    threads: int
    seconds: float
    outcomes: list[Outcome]
    environment: Environment
    published: list[Published] = field(default_factory=lambda: list(PUBLISHED))
    published_with: str = THEIR_SETUP


@dataclass(frozen=True, slots=True)
class Way:
    """How one point is asked: an address, the bodies of all queries, and how an answer tells its passages."""

    netloc: str
    path: str
    bodies: list[bytes]
    passages: Callable[[bytes], list[int]]


def colonnade_index(vectors: Path, threads: int) -> tuple[Path, Path]:
    """An index of the vectors and the encoder that it names, made when they are not there yet.

    `colonnade serve` wants the encoder of its index, and none made these vectors of 128 dimensions: they are a
    projection. This one has as many dimensions and weights that were drawn; the server asks it to warm up, and nobody
    else does.
    """
    index, encoder = vectors / "served-4", vectors / "served-encoder"
    if not index.exists():
        shutil.rmtree(encoder, ignore_errors=True)
        _write_encoder(encoder)
        partial = index.with_name("served-4.part")
        Colonnade(read_vectors(vectors), threads, load_encoder(str(encoder)).record).build(partial, 4)
        partial.rename(index)
    return index, encoder


def _write_encoder(folder: Path) -> None:
    folder.mkdir()
    for name in _TOKENIZER:
        shutil.copyfile(locate(EMBEDDED)[1] / name, folder / name)
    torch.manual_seed(1)
    config = transformers.BertConfig(hidden_size=DIM, num_hidden_layers=1, num_attention_heads=2, intermediate_size=DIM)
    transformers.BertModel(config).save_pretrained(folder)


@contextmanager
def thin_server(peers: Path, index: Path) -> Iterator[str]:
    """The address of fast-plaid's server."""
    limits = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"), str(THREADS))
    process = subprocess.Popen(
        [str(peers), str(_THIN_SERVER), str(index), str(DIM)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | limits,
    )
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        if not address:
            raise SystemExit(f"the peer's server stopped with exit status {process.wait()}; its message is above.")
        yield address
    finally:
        process.terminate()
        process.wait()


def closed_loop(way: Way, clients: int, seconds: float) -> tuple[list[float], list[tuple[int, list[int]]], float]:
    """Milliseconds of each request, its query and the passages of its answer; and how long all took."""
    numbers, until = itertools.count(), time.perf_counter() + seconds

    def client() -> list[tuple[float, int, bytes]]:
        connection = HTTPConnection(way.netloc, timeout=300)
        told: list[tuple[float, int, bytes]] = []
        while not told or time.perf_counter() < until:
            query = next(numbers) % len(way.bodies)
            start = time.perf_counter()
            connection.request("POST", way.path, way.bodies[query], {"Content-Type": "application/json"})
            response = connection.getresponse()
            answer = response.read()
            if response.status != 200:
                raise SystemExit(f"{way.netloc}{way.path} answered {response.status}: {answer[:300]!r}")
            told.append((1000 * (time.perf_counter() - start), query, answer))
        connection.close()
        return told

    start = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        told = [one for own in [pool.submit(client) for _ in range(clients)] for one in own.result()]
    spent = time.perf_counter() - start
    return [took for took, _, _ in told], [(query, way.passages(answer)) for _, query, answer in told], spent


def measure(point: Point, way: Way, clients: int, seconds: float, truth: Any) -> Outcome:
    """One row, after as much of a warm-up as it takes to answer every client once."""
    closed_loop(way, clients, 0)
    times, found, spent = closed_loop(way, clients, seconds)
    recall = [len(set(passages) & set(truth[query, :K].tolist())) / K for query, passages in found]
    return Outcome(
        engine=point.engine,
        point=point.name,
        clients=clients,
        requests=len(times),
        p50_ms=float(np.percentile(times, 50)),
        p95_ms=float(np.percentile(times, 95)),
        requests_a_second=len(times) / spent,
        recall_10=float(np.mean(recall)),
    )


def ways(queries: Sequence[Any], colonnade: str, thin: str) -> list[Way]:
    """How each of POINTS is asked."""
    found = []
    for point in POINTS:
        if point.engine == "colonnade serve":
            options = {"k": K, "fields": [], **point.parameters}
            bodies = [json.dumps({"vectors": query.tolist(), **options}).encode() for query in queries]
            found.append(Way(urlsplit(colonnade).netloc, "/v1/search", bodies, _passages_of_colonnade))
        else:
            raw = [np.ascontiguousarray(query, np.float32).tobytes() for query in queries]
            path = f"/?{urlencode({'top_k': K, **point.parameters})}"
            found.append(Way(urlsplit(thin).netloc, path, raw, json.loads))
    return found


def _passages_of_colonnade(answer: bytes) -> list[int]:
    return [int(hit["document_id"]) for hit in json.loads(answer)["hits"]]


def compare(vectors: Path, peers: Path, seconds: float, started: Environment) -> Comparison:
    """Build what is not built yet, and ask every point with every number of clients."""
    index, encoder = colonnade_index(vectors, THREADS)
    truth, offsets, ends = exact_top(vectors), np.load(vectors / "offsets.npy"), np.load(vectors / "query_offsets.npy")
    asked = np.load(vectors / "queries.npy")
    queries = [asked[first:last] for first, last in pairwise(ends)]
    outcomes = []
    with Progress(console=Console(stderr=True)) as progress:
        build_all([Point("fast-plaid", "", 4)], peers, vectors, THREADS, progress)
        task = progress.add_task("serve", total=len(CLIENTS) * len(POINTS))
        with (
            served(str(index), "--encoder", str(encoder)) as ours,
            thin_server(peers, vectors / "fast-plaid-4") as thin,
        ):
            each = ways(queries, ours.address, thin)
            for clients, (point, way) in itertools.product(CLIENTS, zip(POINTS, each, strict=True)):
                progress.update(task, description=f"{point.engine}, {point.name}, {clients} clients")
                outcomes.append(measure(point, way, clients, seconds, truth))
                progress.advance(task)
    return Comparison(
        passages=len(offsets) - 1,
        tokens=int(offsets[-1]),
        query_tokens=float(np.diff(ends).mean()),
        threads=THREADS,
        seconds=seconds,
        outcomes=outcomes,
        environment=started,
    )


def table(comparison: dict[str, Any]) -> Figures:
    """Ours and the peer's, and what peers publish."""
    rows = [
        [
            one["engine"],
            one["point"],
            str(one["clients"]),
            str(one["requests"]),
            f"{one['p50_ms']:.1f}",
            f"{one['p95_ms']:.1f}",
            f"{one['requests_a_second']:.1f}",
            f"{one['recall_10']:.3f}",
        ]
        for one in comparison["outcomes"]
    ]
    for one in comparison["published"]:
        point = f"{one['what']}; {comparison['published_with']}"
        rows.append(
            [one["engine"], point, str(one["clients"]), "", "", f"{one['p95_ms']}", f"{one['requests_a_second']}", ""]
        )
    title = (
        f"Serving, top {K}: {comparison['passages']:,} passages, {comparison['tokens']:,} tokens, queries of "
        f"{comparison['query_tokens']:.0f} tokens, {comparison['threads']} thread(s) an engine"
    )
    return Figures(
        title, ["server", "point", "clients", "requests", "p50 ms", "p95 ms", "requests/s", "recall@10"], rows
    )


def main() -> None:
    """Measure, print one table and keep all figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving_peers", description=__doc__)
    parser.add_argument("data", type=Path, help="folder of collections")
    parser.add_argument("--peers", type=Path, required=True, help="the Python of the peers' environment")
    parser.add_argument("--passages", type=int, default=4_000, help="how many passages (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=8, help="of each row (default: %(default)s)")
    parser.add_argument(
        "--output", type=Path, default=default_output("serving"), help="JSON file to add the results to"
    )
    arguments = parser.parse_args()
    started = environment(" ".join(["python -m benchmarks.serving_peers", *sys.argv[1:]]))
    vectors = prepare_vectors(arguments.data, arguments.passages)
    comparison = compare(vectors, arguments.peers, arguments.seconds, started)
    save(arguments.output, f"beside fast-plaid, {arguments.passages} passages", comparison)
    print_table(Console(width=max(140, Console().width)), table(asdict(comparison)))


if __name__ == "__main__":
    main()

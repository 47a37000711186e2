"""The same vectors in fast-plaid's index on the GPU and in ours, for benchmarks/gpu.py."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fast_plaid import search as fast_plaid
from numpy.typing import NDArray

from benchmarks.engines.colonnade_engine import Colonnade
from benchmarks.engines.protocol import Vectors
from index_format.index import Index
from serving.search import rank
from serving.snapshot import open_snapshot

PASSAGES = 20_000
LENGTH = 100
DIM = 128
QUERY_TOKENS = 32
QUERIES = 30
TOPICS = 4000


def beside_fast_plaid(folder: Path, k: int) -> dict[str, float]:
    """Median milliseconds and the share of the exact `k` best found, by engine: its defaults at 4 bits, and ours."""
    random = np.random.default_rng(1)
    topics = _unit(random.normal(size=(TOPICS, DIM)))
    near = topics[random.integers(0, TOPICS, PASSAGES * LENGTH)]
    tokens = _unit(near + 0.07 * random.normal(size=near.shape))
    passages = tokens.reshape(PASSAGES, LENGTH, DIM)
    queries = [_unit(one[:QUERY_TOKENS] + 0.05 * random.normal(size=(QUERY_TOKENS, DIM))) for one in passages[:QUERIES]]
    exact = [_exact(passages, query, k) for query in queries]

    peer = fast_plaid.FastPlaid(index=str(folder / "peer"), device="cuda")
    peer.create([torch.from_numpy(one) for one in passages], nbits=4)

    def ask_peer(query: NDArray[np.float32]) -> list[int]:
        (hits,) = peer.search(torch.from_numpy(query)[None], top_k=k, show_progress=False)
        return [number for number, _ in hits]

    texts = [f"passage {number}" for number in range(PASSAGES)]
    engine = Colonnade(Vectors(tokens, np.arange(0, len(tokens) + 1, LENGTH), queries, texts), threads=1)
    engine.build(folder / "ours", bits=4)
    snapshot = open_snapshot(Index.at(folder / "ours"), device="cuda")
    figures: dict[str, float] = {}
    asks: dict[str, Callable[[Any], list[int]]] = {"fast-plaid": ask_peer}
    asks["colonnade"] = lambda query: rank(snapshot, query, k).passages
    for name, ask in asks.items():
        for _ in range(3):
            ask(queries[0])  # the first call compiles, the second records
        times, found = [], 0
        for query, best in zip(queries, exact, strict=True):
            start = time.perf_counter()
            hits = ask(query)
            times.append(1000 * (time.perf_counter() - start))
            found += len(best & set(hits))
        figures |= {f"{name} p50 ms": float(np.median(times)), f"{name} recall@{k}": found / (k * QUERIES)}
    return figures


def _unit(vectors: NDArray[Any]) -> NDArray[np.float32]:
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def _exact(passages: NDArray[np.float32], query: NDArray[np.float32], k: int) -> set[int]:
    on_device = torch.from_numpy(passages).to("cuda")
    scores = (on_device @ torch.from_numpy(query).to("cuda").T).amax(dim=1).sum(dim=1)
    return set(scores.topk(k).indices.tolist())

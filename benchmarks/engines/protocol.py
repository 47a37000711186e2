"""How the benchmark talks to an engine in a process of its own: one JSON object a line, in and out.

Every engine runs in its own environment, so this file needs NumPy alone. Vectors are read from the folder
that `benchmarks/vectors.py` writes.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np


@dataclass(frozen=True)
class Vectors:
    """Token vectors float32 [T, D] of passages, offsets int64 [P + 1], the passages' texts, and query vectors."""

    tokens: Any
    offsets: Any
    queries: list[Any]
    texts: list[str]

    def passage(self, number: int) -> Any:
        return self.tokens[self.offsets[number] : self.offsets[number + 1]]

    @property
    def passages(self) -> int:
        return len(self.offsets) - 1


class Engine(Protocol):
    """What is measured. Points are the keyword arguments of one operating point."""

    def build(self, folder: Path, bits: int) -> None: ...

    def open(self, folder: Path) -> None: ...

    def search(self, query: Any, k: int, **point: Any) -> list[int]: ...


def read_vectors(folder: Path) -> Vectors:
    """Read what `benchmarks/vectors.py` wrote."""
    queries, ends = np.load(folder / "queries.npy"), np.load(folder / "query_offsets.npy")
    return Vectors(
        tokens=np.load(folder / "tokens.npy", mmap_mode="r"),
        offsets=np.load(folder / "offsets.npy"),
        queries=[queries[a:b] for a, b in pairwise(ends)],
        texts=json.loads((folder / "texts.json").read_text(encoding="utf-8")),
    )


def serve(make: Any) -> None:
    """Answer the benchmark until it closes the pipe. `make` builds the engine from Vectors and a thread count."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # engines print what they like; answers have a pipe of their own
    folder, threads = Path(sys.argv[1]), int(sys.argv[2])
    vectors = read_vectors(folder)
    engine: Engine = make(vectors, threads)
    for line in sys.stdin:
        answer = _answer(engine, vectors, json.loads(line))
        out.write(json.dumps(answer) + "\n")
        out.flush()


def _answer(engine: Any, vectors: Vectors, request: dict[str, Any]) -> Any:
    match request["do"]:
        case "build":
            started, cpu = time.perf_counter(), time.process_time()
            engine.build(Path(request["folder"]), request["bits"])
            return {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - cpu}
        case "open":
            engine.open(Path(request["folder"]))
            return {"resident_bytes": _resident_bytes()}
        case "search":
            return _timed(engine, vectors, request)
        case "resident":
            return {"resident_bytes": _resident_bytes()}
        case other:
            return getattr(engine, other)()


def _timed(engine: Any, vectors: Vectors, request: dict[str, Any]) -> dict[str, Any]:
    milliseconds, hits = [], []
    for number in request["queries"]:
        started = time.perf_counter()
        found = engine.search(vectors.queries[number], request["k"], **request["point"])
        milliseconds.append(1000 * (time.perf_counter() - started))
        hits.append(found)
    return {"milliseconds": milliseconds, "hits": hits}


def _resident_bytes() -> int:
    with Path("/proc/self/statm").open() as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

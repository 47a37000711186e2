"""Eight threads read hits of one snapshot at once; a process of its own, because what goes wrong may be a crash."""

from __future__ import annotations

import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from serving.search import search
from serving.snapshot import Snapshot
from tests.serving.vectors import Document, all_vectors, random_snapshot, random_vectors

THREADS = 8
SEARCHES = 40
DIM = 8


def _many_documents() -> list[Document]:
    """More than four row groups of them, each of a page of text."""
    rng = np.random.default_rng(1)
    return [Document(str(n), [random_vectors(rng, 2, DIM)], text=f"{n} " + "word " * 200) for n in range(2500)]


def _ask(snapshot: Snapshot, seed: int) -> int:
    """Search and return how many hits have the text of another document."""
    rng = np.random.default_rng(seed)
    hits = [hit for _ in range(SEARCHES) for hit in search(snapshot, random_vectors(rng, 3, DIM), 10, candidates=20)]
    return sum(not hit.text.startswith(f"{hit.document_id} ") for hit in hits)


def main() -> int:
    """The number of wrong hits."""
    documents = _many_documents()
    with tempfile.TemporaryDirectory() as cache:
        snapshot = random_snapshot(Path(cache), documents, sample=all_vectors(documents[:64]))
        with ThreadPoolExecutor(THREADS) as pool:
            return sum(pool.map(lambda seed: _ask(snapshot, seed), range(THREADS)))


if __name__ == "__main__":
    sys.exit(main())

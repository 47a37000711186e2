"""How much of the exact answer do the quick ones have? A sample of queries is scored whole, after their answers left.

One thread, one query at a time, on one core: what comes meanwhile is not checked.
Exact means MaxSim of every passage on its codes, as recall "exact" has it.
"""

from __future__ import annotations

import queue
import random
import threading
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serving.metrics import Metrics
from serving.query import SearchQuery
from serving.searcher import Answer, Searcher
from serving.snapshot import Snapshot


@dataclass(frozen=True, slots=True, eq=False)
class _Sample:
    snapshot: Snapshot
    query: SearchQuery
    vectors: NDArray[np.float32]
    answer: Answer


class ShadowCheck:
    """Checks a share of the answers that it is shown; none where the share is 0."""

    def __init__(self, searcher: Searcher, metrics: Metrics, share: float) -> None:
        self._searcher = searcher
        self._metrics = metrics
        self._share = share
        self._samples: queue.Queue[_Sample | None] = queue.Queue(maxsize=1)
        self._worker = threading.Thread(target=self._run, name="colonnade-shadow", daemon=True)

    def start(self) -> None:
        """Begin to check."""
        self._worker.start()

    def stop(self) -> None:
        """Finish what is being checked, and end."""
        self._samples.put(None)
        self._worker.join()

    def offer(self, snapshot: Snapshot, query: SearchQuery, vectors: NDArray[np.float32], answer: Answer) -> None:
        """Maybe check an answer later; returns at once."""
        if query.recall != "exact" and answer.hits and random.random() < self._share and self._samples.empty():
            # Others may have put one meanwhile: theirs is as good.
            try:
                self._samples.put_nowait(_Sample(snapshot, query, vectors, answer))
            except queue.Full:
                return

    def _run(self) -> None:
        while (sample := self._samples.get()) is not None:
            exact = self._searcher.exact(sample.query, sample.vectors, sample.snapshot)
            found = {(hit.document_id, hit.passage) for hit in sample.answer.hits}
            wanted = {(hit.document_id, hit.passage) for hit in exact.hits}
            self._metrics.shadow_recall.observe(len(found & wanted) / max(1, len(wanted)))

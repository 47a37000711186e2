"""How much of the exact answer do the quick ones have? A sample of queries is scored whole, after their answers left.

One thread, one query at a time, on one core: what comes meanwhile is not checked.
Exact means MaxSim of every passage on its codes, as recall "exact" has it.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import random
import threading
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serving.faults import places_of
from serving.metrics import Metrics
from serving.query import SearchQuery
from serving.searcher import Answer, Searcher
from serving.snapshot import Snapshot

_log = logging.getLogger("colonnade.serving")
_STOP_SECONDS = 5.0  # an exact search of a large index takes longer than anybody waits for a server to end


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
        self._stopping = False
        self._worker = threading.Thread(target=self._run, name="colonnade-shadow", daemon=True)

    def start(self) -> None:
        """Begin to check."""
        self._worker.start()

    def stop(self) -> None:
        """Finish what is being checked, if that is done soon, and end."""
        self._stopping = True
        with contextlib.suppress(queue.Full):  # then there is something to take, and the thread sees that it is over
            self._samples.put_nowait(None)
        self._worker.join(_STOP_SECONDS)

    def offer(self, snapshot: Snapshot, query: SearchQuery, vectors: NDArray[np.float32], answer: Answer) -> None:
        """Maybe check an answer later; returns at once."""
        if query.recall != "exact" and answer.hits and random.random() < self._share and self._samples.empty():
            # Others may have put one meanwhile: theirs is as good.
            try:
                self._samples.put_nowait(_Sample(snapshot, query, vectors, answer))
            except queue.Full:
                return

    def _run(self) -> None:
        while (sample := self._samples.get()) is not None and not self._stopping:
            try:
                self._check(sample)
            except Exception as error:  # noqa: BLE001  # the next one is checked all the same
                self._metrics.faults.labels("shadow").inc()
                _log.error("a shadow check failed with %s", places_of(error))

    def _check(self, sample: _Sample) -> None:
        exact = self._searcher.exact(sample.query, sample.vectors, sample.snapshot)
        found = {(hit.document_id, hit.passage) for hit in sample.answer.hits}
        wanted = {(hit.document_id, hit.passage) for hit in exact.hits}
        self._metrics.shadow_recall.observe(len(found & wanted) / max(1, len(wanted)))

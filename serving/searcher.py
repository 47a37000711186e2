"""Text in, hits out, always from the newest version that could be opened."""

from __future__ import annotations

import logging
import os
import threading
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from encoding.encoder import Encoder
from index_format.change import refuse_other_encoder
from index_format.errors import ColonnadeError, ObjectMissing, StorageError
from index_format.index import Index
from index_format.manifest import Manifest
from serving.explain import Explanation, explain
from serving.query import SearchQuery
from serving.search import Hit, Ranking, Recall, rank, read_hits, search
from serving.snapshot import Snapshot, open_snapshot

_log = logging.getLogger("colonnade.serving")
# Few words and many: each number of registers that a query fills has a kernel, compiled when first used.
_WARM_QUERIES = ("warm", "a question of a sentence or two " * 3)
_RETRY_SECONDS = 30.0
_THREADS = os.cpu_count() or 1  # of one query; several queries share them


@dataclass(frozen=True, slots=True)
class Answer:
    """Hits, best first, the index version that gave them, and how: the recall asked for, and passages scored.

    explanation: what of each hit matched, where that was asked for.
    """

    version: int
    hits: list[Hit]
    recall: Recall
    scored: int
    encode_ms: float
    search_ms: float
    explanation: Explanation | None = None


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a version is not served, and when (monotonic seconds) to look at it again: its files may be restored."""

    version: int
    reason: str
    retry_at: float


class Searcher:
    """Answers queries from one snapshot at a time; `refresh` swaps in a newer one between two queries."""

    def __init__(self, index: Index, encoder: Encoder) -> None:
        self._index = index
        self.encoder = encoder
        self.fault: Fault | None = None
        self.snapshot = self._open(None)

    def search(self, query: SearchQuery) -> Answer:
        """The best passages for one query, encoded here unless it brings its vectors."""
        start = time.perf_counter()
        vectors = query.vectors
        if vectors is None:
            assert query.text is not None
            vectors = self.encoder.encode_query(query.text)
        return self.answer(query, vectors, encode_ms=1000 * (time.perf_counter() - start))

    def answer(self, query: SearchQuery, vectors: NDArray[np.float32], *, encode_ms: float) -> Answer:
        """The best passages for query vectors float32 [Q, D]. The whole answer comes from one version.

        Raises InputError when the filter does not fit the columns of that version.
        """
        snapshot, start = self.snapshot, time.perf_counter()
        among = snapshot.select(query.matching)
        ranking = rank(snapshot, vectors, query.offset + query.k, recall=query.recall, among=among, threads=_THREADS)
        wanted = Ranking(ranking.passages[query.offset :], ranking.scores[query.offset :], ranking.scored)
        hits = read_hits(snapshot, wanted)
        search_ms = 1000 * (time.perf_counter() - start)
        explanation = explain(snapshot, self.encoder, vectors, wanted, hits, query.text) if query.explain else None
        return Answer(
            version=snapshot.version,
            hits=hits,
            recall=query.recall,
            scored=ranking.scored,
            encode_ms=encode_ms,
            search_ms=search_ms,
            explanation=explanation,
        )

    def refresh(self) -> bool:
        """Open a newer version if there is one, warm it and swap it in. Returns whether it did.

        A version that cannot be opened is set aside with its reason, and the one that is served stays.
        """
        newest = self._index.versions()[-1:]
        if not newest or newest[0] <= self.snapshot.version:
            return False
        if self.fault and self.fault.version == newest[0] and time.monotonic() < self.fault.retry_at:
            return False
        try:
            self.snapshot = self._open(self.snapshot)
        except ColonnadeError as error:
            if isinstance(error, StorageError) and not isinstance(error, ObjectMissing):
                raise  # the store may answer next time: nothing is wrong with the version
            self.fault = Fault(newest[0], str(error), time.monotonic() + _RETRY_SECONDS)
            _log.error("version %d is set aside: %s", newest[0], error)
            return False
        self.fault = None
        _log.info("serving version %d", self.snapshot.version)
        return True

    def _open(self, previous: Snapshot | None) -> Snapshot:
        def opener(manifest: Manifest) -> Snapshot:
            refuse_other_encoder(manifest, self.encoder.record, where=self._index.address)
            return open_snapshot(self._index, manifest, previous)

        snapshot = self._index.open_current(opener)
        for text in _WARM_QUERIES:
            search(snapshot, self.encoder.encode_query(text), 1)
        return snapshot


class Refresher(threading.Thread):
    """Looks for a newer version every `period` seconds until stopped."""

    def __init__(self, searcher: Searcher, period: float = 1.0) -> None:
        super().__init__(name="colonnade-refresher", daemon=True)
        self._searcher = searcher
        self._period = period
        self._stopping = threading.Event()

    def run(self) -> None:
        while not self._stopping.wait(self._period):
            try:
                self._searcher.refresh()
            except StorageError as error:
                _log.warning("cannot look for a newer version: %s", error)
            except Exception:  # noqa: BLE001  # whatever it is, the next version must still be seen
                _log.exception("looking for a newer version failed")

    def stop(self) -> None:
        self._stopping.set()
        self.join()

"""Text in, hits out, always from the newest version that could be opened."""

from __future__ import annotations

import logging
import os
import threading
import time
from dataclasses import dataclass

from encoding.encoder import Encoder
from index_format.change import refuse_other_encoder
from index_format.errors import ColonnadeError, ObjectMissing, StorageError
from index_format.index import Index
from index_format.manifest import Manifest
from serving.device import Device
from serving.search import Hit, Recall, rank, read_hits, search
from serving.snapshot import Snapshot, open_snapshot

_log = logging.getLogger("colonnade.serving")
# Few words and many: each number of registers that a query fills has a kernel, compiled when first used.
_WARM_QUERIES = ("warm", "a question of a sentence or two " * 3)
_RETRY_SECONDS = 30.0
_THREADS = os.cpu_count() or 1  # of one query; several queries share them


@dataclass(frozen=True, slots=True)
class Answer:
    """Hits, best first, the index version that gave them, and how: the recall asked for, and passages scored."""

    version: int
    hits: list[Hit]
    recall: Recall
    scored: int
    encode_ms: float
    search_ms: float


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a version is not served, and when (monotonic seconds) to look at it again: its files may be restored."""

    version: int
    reason: str
    retry_at: float


class Searcher:
    """Answers queries from one snapshot at a time; `refresh` swaps in a newer one between two queries."""

    def __init__(self, index: Index, encoder: Encoder, device: Device = "cpu") -> None:
        """device: where passages are scored."""
        self._index = index
        self._encoder = encoder
        self._device = device
        self.fault: Fault | None = None
        self.snapshot = self._open(None)

    def search(self, text: str, k: int, recall: Recall = "balanced") -> Answer:
        """The best `k` passages for a text. The whole answer comes from one version."""
        snapshot = self.snapshot
        start = time.perf_counter()
        vectors = self._encoder.encode_query(text)
        encoded = time.perf_counter()
        ranking = rank(snapshot, vectors, k, recall=recall, threads=_THREADS)
        hits = read_hits(snapshot, ranking)
        ended = time.perf_counter()
        return Answer(
            version=snapshot.version,
            hits=hits,
            recall=recall,
            scored=ranking.scored,
            encode_ms=1000 * (encoded - start),
            search_ms=1000 * (ended - encoded),
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
            refuse_other_encoder(manifest, self._encoder.record, where=self._index.address)
            return open_snapshot(self._index, manifest, previous, device=self._device)

        snapshot = self._index.open_current(opener)
        for text in _WARM_QUERIES:
            search(snapshot, self._encoder.encode_query(text), 1)
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

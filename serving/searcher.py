"""Text in, hits out, always from the newest version that could be opened."""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np
import torch
from numpy.typing import NDArray

from encoding.encoder import Encoder
from index_format.change import refuse_other_encoder
from index_format.errors import ColonnadeError, IndexNotFound, ObjectMissing, StorageError
from index_format.files import FileCache
from index_format.index import Index
from index_format.manifest import Manifest
from serving.device import Device
from serving.explain import Explanation, explain
from serving.faults import places_of, ran_out_of_memory
from serving.passes import Wanted, passes, rank_together
from serving.query import SearchQuery
from serving.search import Hit, Ranking, Recall, read_hits, search
from serving.snapshot import Snapshot, open_snapshot

_log = logging.getLogger("colonnade.serving")
# Few words and many: each number of registers that a query fills has a kernel, compiled when first used.
_WARM_QUERIES = ("warm", "a question of a sentence or two " * 3)
_WARM_ALONE = (8, 16, 24, 32)  # vectors of a query: registers, and halves of them, that most fill
_WARM_SHARED = (4, (8, 12, 20))  # so many queries together, of so many vectors each: registers filled differently
_RETRY_SECONDS = 30.0
_LIST_SECONDS = 30.0
_OLDER_OPEN = 2  # versions beside the newest: each may hold files that nothing else does
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


Asked = tuple[SearchQuery, NDArray[np.float32]]
"""A query and its vectors float32 [Q, D]."""

Outcome = Answer | Exception


def answer_of(outcome: Outcome) -> Answer:
    """The answer; raises what prevented it."""
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a version is not served, and when (monotonic seconds) to look at it again: its files may be restored."""

    version: int
    reason: str
    retry_at: float


@dataclass(frozen=True, slots=True)
class GpuMemory:
    """Bytes of the GPU: of this process's tensors, kept by torch for more of them, and free on the device."""

    allocated: int
    reserved: int
    free: int


class Searcher:
    """Answers queries from one snapshot at a time; `refresh` swaps in a newer one between two queries."""

    def __init__(
        self, index: Index, encoder: Encoder, device: Device = "cpu", manifest: Manifest | None = None
    ) -> None:
        """device: where passages are scored. manifest: of the version to begin with; the current one by default."""
        self._index = index
        self.encoder = encoder
        self._device = device
        # Made once: a new version is warmed while queries run, which need the model and the cores themselves.
        self._warm_vectors = [encoder.encode_query(text) for text in _WARM_QUERIES]
        self.fault: Fault | None = None
        self._older: OrderedDict[int, Snapshot] = OrderedDict()
        self._older_lock = threading.Lock()
        self._opening = threading.Lock()
        self._behind_since: float | None = None
        self._manifests: dict[int, Manifest] = {}
        self._listed_at = -math.inf
        self.snapshot = self._open(None, manifest)
        self.newest = self.snapshot.version  # that is known to be there

    def search(self, query: SearchQuery) -> Answer:
        """The best passages for one query, encoded here unless it brings its vectors."""
        start = time.perf_counter()
        vectors = query.vectors
        if vectors is None:
            assert query.text is not None
            vectors = self.encode([query.text])[0]
        encode_ms = 1000 * (time.perf_counter() - start)
        return replace(self.answer(query, vectors), encode_ms=encode_ms)

    def encode(self, texts: Sequence[str]) -> list[NDArray[np.float32]]:
        """The token vectors of queries, each float32 [Q, D]."""
        return self.encoder.encode_queries(texts)

    def answer(
        self,
        query: SearchQuery,
        vectors: NDArray[np.float32],
        snapshot: Snapshot | None = None,
        threads: int = _THREADS,
    ) -> Answer:
        """The best passages for query vectors float32 [Q, D], of a snapshot: the newest, where none is given.

        The whole answer comes from one version. Raises InputError when the filter does not fit its columns.
        """
        (((_, outcome),),) = self.answers([(query, vectors)], snapshot or self.snapshot, threads=threads)
        return answer_of(outcome)

    def answers(
        self,
        asked: Sequence[Asked],
        snapshot: Snapshot,
        *,
        is_wanted: Callable[[int], bool] = lambda _: True,
        threads: int = _THREADS,
    ) -> Iterator[list[tuple[int, Outcome]]]:
        """What `answer` says of each query, with its place among those asked: a list for each pass, as it is made.

        is_wanted: asked of a place before its pass; where it is False there is no answer.
        An exception stands for the answer that it prevented, and spoils no other.
        """
        wanted: dict[int, Wanted] = {}
        for place, (query, vectors) in enumerate(asked):
            try:
                among = snapshot.select(query.matching)
            except Exception as error:  # noqa: BLE001  # whoever asked is told
                yield [(place, error)]
            else:
                k = query.offset + query.k
                wanted[place] = Wanted(vectors, k, query.recall, among, query.text, query.fusion)
        for places in passes(snapshot, wanted):
            own = [place for place in places if is_wanted(place)]
            if own:
                queries = [asked[place][0] for place in own]
                made = self._together(snapshot, queries, [wanted[place] for place in own], threads)
                yield list(zip(own, made, strict=True))

    def _together(
        self, snapshot: Snapshot, queries: Sequence[SearchQuery], wanted: Sequence[Wanted], threads: int
    ) -> list[Outcome]:
        """What becomes of the queries of one pass."""
        start, pairs = time.perf_counter(), list(zip(queries, wanted, strict=True))
        try:
            rankings = rank_together(snapshot, wanted, threads=threads)
        except Exception as error:  # noqa: BLE001  # whoever asked is told
            if len(wanted) == 1:
                return [error]
            # What one of them cannot have, or all together, each of the others may.
            _log.warning("a pass of %d queries failed with %s", len(wanted), places_of(error))
            return [outcome for query, one in pairs for outcome in self._together(snapshot, [query], [one], threads)]
        rank_ms = 1000 * (time.perf_counter() - start) / len(wanted)
        return [
            self._finished(snapshot, query, one.vectors, ranking, rank_ms)
            for (query, one), ranking in zip(pairs, rankings, strict=True)
        ]

    def _finished(
        self, snapshot: Snapshot, query: SearchQuery, vectors: NDArray[np.float32], ranking: Ranking, rank_ms: float
    ) -> Outcome:
        """An answer made of a ranking, or why there is none."""
        start = time.perf_counter()
        try:
            wanted = ranking.after(query.offset)
            hits = read_hits(snapshot, wanted)
            search_ms = rank_ms + 1000 * (time.perf_counter() - start)
            explanation = explain(snapshot, self.encoder, vectors, wanted, hits, query.text) if query.explain else None
        except Exception as error:  # noqa: BLE001  # whoever asked is told
            return error
        return Answer(
            version=snapshot.version,
            hits=hits,
            recall=query.recall,
            scored=ranking.scored,
            encode_ms=0.0,
            search_ms=search_ms,
            explanation=explanation,
        )

    def warm_lengths(self) -> None:
        """Rank queries of several lengths, alone and at once, so that nobody waits for a kernel to be compiled."""
        snapshot, (together, counts) = self.snapshot, _WARM_SHARED
        for count in _WARM_ALONE:
            search(snapshot, self._warm_query(count), 1)
        for count in counts:
            wanted = Wanted(self._warm_query(count), 1, "balanced", snapshot.everything)
            for places in passes(snapshot, dict.fromkeys(range(together), wanted)):
                if len(places) > 1:
                    rank_together(snapshot, [wanted] * len(places))

    def _warm_query(self, count: int) -> NDArray[np.float32]:
        """So many vectors, float32 [count, D]."""
        warm = self._warm_vectors[0]
        return np.resize(warm, (count, warm.shape[1]))

    @property
    def files(self) -> FileCache:
        """The files of the index on this machine."""
        return self._index.files

    @property
    def uses_gpu(self) -> bool:
        """Whether anything here runs on a GPU."""
        return "cuda" in (self._device, self.encoder.device.type)

    def gpu_memory(self) -> GpuMemory:
        """What the GPU's memory is used for; nothing of one that nothing here runs on."""
        if not self.uses_gpu:
            return GpuMemory(0, 0, 0)
        free, _ = torch.cuda.mem_get_info()
        return GpuMemory(torch.cuda.memory_allocated(), torch.cuda.memory_reserved(), free)

    def lag_seconds(self) -> float:
        """The age of the oldest version that is not served though it is there; 0 where the newest is served."""
        since = self._behind_since
        return 0.0 if since is None else max(0.0, time.time() - since)

    def exact(self, query: SearchQuery, vectors: NDArray[np.float32], snapshot: Snapshot) -> Answer:
        """The answer that leaves nothing out, on one core."""
        return self.answer(replace(query, recall="exact", explain=False), vectors, snapshot, threads=1)

    def refresh(self) -> bool:
        """Open a newer version if there is one, warm it and swap it in. Returns whether it did.

        A version that cannot be opened is set aside with its reason, and the one that is served stays.
        """
        newest = self._newest()
        if newest <= self.snapshot.version:
            return False
        if self._behind_since is None:
            self._behind_since = self._published_at(self.snapshot.version + 1)
        if self.fault and self.fault.version == newest and time.monotonic() < self.fault.retry_at:
            return False
        try:
            self.snapshot = self._open(self.snapshot)
        except Exception as error:  # whatever a version does, the one before it goes on
            if isinstance(error, StorageError) and not isinstance(error, ObjectMissing):
                raise  # the store may answer next time: nothing is wrong with the version
            self._set_aside(newest, error)
            return False
        self._close_forgotten()
        self.fault = self._behind_since = None
        _log.info("serving version %d", self.snapshot.version)
        return True

    def _set_aside(self, version: int, error: Exception) -> None:
        if isinstance(error, ColonnadeError):
            reason = told = str(error)
        else:
            memory = "memory ran out while it was opened" if ran_out_of_memory(error) else "a fault in the server"
            reason, told = f"{memory} ({type(error).__name__}); the server's log says where", places_of(error)
        self.fault = Fault(version, reason, time.monotonic() + _RETRY_SECONDS)
        _log.error("version %d is set aside: %s", version, told)

    def at_version(self, version: int) -> Snapshot:
        """A version that the index retains, opened; a few of them stay open.

        Takes as long as reading and checking the files that the served version does not share.
        Raises IndexNotFound, EncoderMismatch where its vectors are of another encoder, and what opening raises.
        """
        with self._opening:
            held = self.held(version)
            if held is not None:
                return held
            current = self.snapshot
            if not self._index.current().retains(version):
                raise IndexNotFound(f"version {version} is not retained; version {current.version} is served.")
            manifest = self._index.version(version)
            refuse_other_encoder(manifest, self.encoder.record, where=f"version {version}")
            opened = open_snapshot(self._index, manifest, current, device=self._device)
            if opened.everything.passages:
                _ = opened.scorer  # what is not on the device yet goes there now, and not while others wait for it
            with self._older_lock:
                self._older[version] = opened
                if len(self._older) > _OLDER_OPEN:
                    self._older.popitem(last=False)
            self._close_forgotten()  # there may have been a swap meanwhile
            return opened

    def held(self, version: int) -> Snapshot | None:
        """A version that is open already; at once."""
        current = self.snapshot
        if version == current.version:
            return current
        with self._older_lock:
            if version in self._older:
                self._older.move_to_end(version)
            return self._older.get(version)

    def _close_forgotten(self) -> None:
        """Close versions that are retained no longer: what was deleted from the index for good is not found in them."""
        current = self.snapshot
        with self._older_lock:
            for version in [one for one in self._older if one < current.version]:
                if not current.manifest.retains(version):
                    del self._older[version]

    def retained(self, most: int) -> list[Manifest]:
        """The newest `most` versions that the index retains, newest first."""
        head = self._index.current()
        wanted = sorted(filter(head.retains, self._index.versions()), reverse=True)[:most]
        known = self._manifests  # others may ask meanwhile, and replace it
        found = {number: known.get(number) or self._index.version(number) for number in wanted}
        self._manifests = found  # those that nobody asks for any more are forgotten
        return list(found.values())

    def _newest(self) -> int:
        """The newest version, as far as is worth a request: whether the next one is there.

        Several versions may come and the first of them be collected between two looks, so now and then all are listed.
        """
        served = max(self.snapshot.version, self.fault.version if self.fault else 0)
        due = time.monotonic() >= self._listed_at + _LIST_SECONDS
        if not due and not self._index.has_version(served + 1):
            return served
        found = self._index.versions()[-1:]
        self._listed_at = time.monotonic()
        self.newest = max(found, default=0)
        return self.newest

    def _published_at(self, version: int) -> float:
        """When a version was committed, in seconds since 1970; now, where it cannot be told any more."""
        try:
            return datetime.fromisoformat(self._index.version(version).commit.created_at).timestamp()
        except (ColonnadeError, ValueError):
            return time.time()

    def _open(self, previous: Snapshot | None, wanted: Manifest | None = None) -> Snapshot:
        def opener(manifest: Manifest) -> Snapshot:
            refuse_other_encoder(manifest, self.encoder.record, where=self._index.address)
            return open_snapshot(self._index, manifest, previous, device=self._device)

        snapshot = opener(wanted) if wanted else self._index.open_current(opener)
        for vectors in self._warm_vectors:
            search(snapshot, vectors, 1)
        return snapshot

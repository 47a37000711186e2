"""One version of an index, opened and immutable while it is held.

A passage of a snapshot has one number over all its segments, in their order: what the stages of a search pass on.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping
from functools import cached_property

import numpy as np
from cachetools import LRUCache
from numpy.typing import NDArray

from index_format.codec import Codec
from index_format.filters import And, Filter, leaves
from index_format.index import Index
from index_format.manifest import Manifest
from index_format.segment import SegmentReader
from index_format.selection import Column, columns_within, filter_columns, refuse_misfit
from serving.approximate import CodedCentroids
from serving.bm25 import SnapshotWords
from serving.device import Device
from serving.kernels.segments import SegmentTable
from serving.matches import Matches, Selection
from serving.scorer import CpuScorer, Scorer
from serving.word_counts import WordCounts, load_word_counts

_SELECTIONS = 8  # of the filters asked last; one takes a byte a passage
_TENANTS = 1_000  # whose columns are remembered


class Snapshot:
    """A manifest with its codec and segments at hand, and where each passage of it is."""

    def __init__(
        self,
        index: Index,
        manifest: Manifest,
        codec: Codec,
        segments: list[SegmentReader],
        *,
        device: Device = "cpu",
        previous: Snapshot | None = None,
    ) -> None:
        """device: where passages are scored. previous: whose matches, centroids, and arrays on a device, are shared."""
        self._index = index
        self.manifest = manifest
        self.codec = codec
        self.segments = segments
        if previous and previous.manifest.codebook == manifest.codebook:
            self.centroids = previous.centroids
        self.matches: Matches = previous.matches if previous else Matches()
        self._selections: LRUCache[str, Selection] = LRUCache(_SELECTIONS)
        self._columns_of: LRUCache[Filter, dict[str, Column]] = LRUCache(_TENANTS)
        self._selecting = threading.Lock()
        self._words: SnapshotWords | None = None
        self._counts: Mapping[str, WordCounts] = previous.held_words() if previous else {}
        self._counting = threading.Lock()
        self._device = device
        self._before = previous.scorer if previous else None

    @property
    def version(self) -> int:
        return self.manifest.version

    @cached_property
    def first_passages(self) -> NDArray[np.int64]:
        """The number of each segment's first passage, and at the end the number of all passages: int64 [S + 1]."""
        firsts = np.zeros(len(self.segments) + 1, np.int64)
        np.cumsum([segment.record.passages for segment in self.segments], out=firsts[1:])
        return firsts

    @cached_property
    def live(self) -> NDArray[np.bool_]:
        """Which passages are not deleted: bool [P]."""
        if not self.segments:
            return np.zeros(0, bool)
        return ~np.concatenate([segment.deleted for segment in self.segments])

    @cached_property
    def everything(self) -> Selection:
        """All live passages."""
        return Selection.of(self.live, self.segments)

    @cached_property
    def columns(self) -> dict[str, Column]:
        """The columns that filters may name."""
        return filter_columns(self.segments)

    def columns_of(self, tenant: Filter) -> dict[str, Column]:
        """The columns that a tenant's filters may name: `id`, and those in which its documents have a value.

        Reads all columns of the metadata when first asked for a tenant. Raises InputError when the index does not
        have the tenant's own.
        """
        self._refuse_no_tenants(tenant)
        with self._selecting:
            found: dict[str, Column] | None = self._columns_of.get(tenant)
        if found is None:
            found = columns_within(self.segments, tenant)
            with self._selecting:
                self._columns_of[tenant] = found
        return found

    def within(self, matching: Filter | None, tenant: Filter) -> Filter:
        """What documents of a tenant match that also match a filter.

        Raises InputError when the filter does not fit the tenant's columns: whether others have more of them, and
        what is in those, it cannot be used to find out.
        """
        self._refuse_no_tenants(tenant)
        if matching is None:
            return tenant
        if self.segments:
            refuse_misfit(matching, self.columns_of(tenant))
        return And(op="and", filters=(matching, tenant))

    def _refuse_no_tenants(self, tenant: Filter) -> None:
        """Raise InputError when the tenant's filter does not fit, without the name of any other column."""
        named = {one.column for one in leaves(tenant)} | {"id"}
        if self.segments:
            refuse_misfit(tenant, {name: one for name, one in self.columns.items() if name in named})

    def select(self, matching: Filter | None) -> Selection:
        """The live passages whose documents match a filter, all without one. Raises InputError when it does not fit.

        In a snapshot without segments any filter fits, and nothing is found.
        """
        if matching is None or not self.segments:
            return self.everything
        key = hashlib.sha256(matching.model_dump_json().encode()).hexdigest()  # a filter's text may be long
        with self._selecting:
            selection: Selection | None = self._selections.get(key)
        if selection is None:
            refuse_misfit(matching, self.columns)
            found = np.concatenate([self.matches.passages(segment, matching, key) for segment in self.segments])
            selection = Selection.of(self.live & found, self.segments)
            with self._selecting:
                self._selections[key] = selection
        else:
            self.matches.met_again()
        return selection

    @property
    def has_words(self) -> bool:
        """Whether `words` is at hand."""
        return self._words is not None

    @property
    def words(self) -> SnapshotWords:
        """The words of all passages; made when first asked for, by segment, for those that this machine has not kept.

        Takes seconds for tens of thousands of passages that are new to it.
        """
        with self._counting:
            if self._words is None:
                held = self._counts
                self._counts = {
                    one.record.id: held.get(one.record.id) or load_word_counts(self._index.files, one)
                    for one in self.segments
                }
                self._words = SnapshotWords(list(self._counts.values()), self.first_passages)
            return self._words

    def held_words(self) -> Mapping[str, WordCounts]:
        """The words of segments that are in memory, by the segment's id."""
        return self._counts

    @cached_property
    def table(self) -> SegmentTable:
        """Where the kernels find the arrays of all segments."""
        return SegmentTable.of([(*one.codes.arrays, *one.centroids.arrays) for one in self.segments])

    @cached_property
    def scorer(self) -> Scorer:
        """What scores passages; made when first asked for, which brings all codes to a device other than the CPU."""
        if self._device == "cpu":
            assert self._before is None or isinstance(self._before, CpuScorer)
            scorer = CpuScorer(self.table, self.codec, self.centroids, self._before)
            self._before = None
            return scorer
        from serving.gpu.scorer import GpuScorer

        assert self._before is None or isinstance(self._before, GpuScorer)
        made = GpuScorer.of(self.segments, self.codec, self.centroids, self._device, self._before)
        self._before = None
        return made

    @cached_property
    def centroids(self) -> CodedCentroids:
        """The centroids, for the candidate stage."""
        return CodedCentroids.of(self._index.codebook(self.manifest))

    def place(self, passage: int) -> tuple[SegmentReader, int]:
        """The segment of a passage, and its ordinal there."""
        number = int(np.searchsorted(self.first_passages, passage, side="right")) - 1
        return self.segments[number], passage - int(self.first_passages[number])


def open_snapshot(
    index: Index, manifest: Manifest | None = None, previous: Snapshot | None = None, *, device: Device = "cpu"
) -> Snapshot:
    """Open a version, the current one unless a manifest is given. Every file is checked against its hash.

    Segments that `previous` holds unchanged are shared with it, as are codec and centroids, and words are at hand if it
    has them.
    device: where passages are scored.
    Raises IndexNotFound, IndexCorrupt or StorageError.
    """
    manifest = manifest or index.current()
    held = {segment.record.id: segment for segment in previous.segments} if previous else {}
    index.files.fetch(manifest.files())
    # What `previous` has is still asked for.
    index.files.hold([*manifest.files(), *(previous.manifest.files() if previous else ())])
    codec = previous.codec if previous and previous.manifest.codec == manifest.codec else index.codec(manifest)
    segments = []
    for record in manifest.segments:
        segment = held.get(record.id)
        if segment is None or segment.record != record:
            segment = SegmentReader(index.files, record, codec, manifest.codebook.centroids)
            segment.load()
        segments.append(segment)
    snapshot = Snapshot(index, manifest, codec, segments, device=device, previous=previous)
    if previous and previous.has_words:
        _ = snapshot.words  # before the first question, which would wait for it
    return snapshot

"""What filters let a search find: bitmaps of passages, kept so that a repeated filter costs nothing.

Documents of a segment never change, so what matches in it is true as long as it is there: those bitmaps pass from one
snapshot to the next. Deletions differ from version to version and are left out at the end.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from cachetools import LRUCache
from numpy.typing import NDArray

from index_format.filters import Filter
from index_format.segment import SegmentReader
from index_format.selection import matching_rows

_MOST_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Selection:
    """The passages of a snapshot that a search may find, never a deleted one.

    mask: bool [P]. passages: how many they are. tokens: how many they have.
    """

    mask: NDArray[np.bool_]
    passages: int
    tokens: int

    @staticmethod
    def of(mask: NDArray[np.bool_], segments: Sequence[SegmentReader]) -> Selection:
        """The selection of passages that are live, over all segments in their order."""
        tokens = first = 0
        for segment in segments:
            own = mask[first : first + segment.record.passages]
            tokens += int(np.diff(segment.codes.offsets)[own].sum(dtype=np.int64))
            first += len(own)
        return Selection(mask, int(mask.sum()), tokens)


class Matches:
    """Which passages of segments match filters; those asked for longest ago are forgotten. Safe for many threads."""

    def __init__(self) -> None:
        self._packed: LRUCache[tuple[str, str], NDArray[np.uint8]] = LRUCache(_MOST_BYTES, getsizeof=_size)
        self._locked = threading.Lock()
        self._found = {"hit": 0, "miss": 0}

    @property
    def lookups(self) -> dict[str, int]:
        """How often a filter was met again, in a snapshot or in a segment, and how often it was new: "hit", "miss"."""
        with self._locked:
            return dict(self._found)

    @property
    def bytes(self) -> int:
        """What is kept."""
        return int(self._packed.currsize)

    def met_again(self) -> None:
        """Count a filter that a snapshot answered by itself."""
        with self._locked:
            self._found["hit"] += 1

    def passages(self, segment: SegmentReader, matching: Filter, key: str) -> NDArray[np.bool_]:
        """Which passages of a segment match, the deleted ones too: bool [P]. key: of the filter."""
        with self._locked:
            packed = self._packed.get((segment.record.id, key))
            self._found["miss" if packed is None else "hit"] += 1
        if packed is None:
            packed = np.packbits(matching_rows(matching, segment)[segment.document_rows])
            if _size(packed) <= _MOST_BYTES:
                with self._locked:
                    self._packed[segment.record.id, key] = packed
        return np.unpackbits(packed, count=segment.record.passages).astype(bool)


def _size(packed: NDArray[np.uint8]) -> int:
    return packed.nbytes + 500  # the array itself, its key, and its place in the cache

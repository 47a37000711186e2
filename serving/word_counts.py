"""Which passages of a segment have which words, and how often: made of its texts, so every segment ever written has it.

It is no part of the index. What is made is kept with the cached files under a hash of what decides it, so that a
segment costs its own work once on a machine, and the next version costs that of its new segments.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, vstack

from index_format.files import FileCache
from index_format.npz import ArraySpec, view_npz, write_npz
from index_format.segment import SegmentReader
from serving.words import RULES, Words, words_of

_MOST_COUNTED = 2**16 - 1


@dataclass(frozen=True, slots=True)
class WordCounts:
    """The words of a segment.

    words: uint64 [V] ascending, their numbers. offsets: uint64 [V + 1], where each begins in the two that follow.
    passages: uint32 [N], ordinals of the passages with it, ascending. counts: uint16 [N], how often each has it.
    lengths: uint32 [P], the words of each passage.
    """

    words: NDArray[np.uint64]
    offsets: NDArray[np.uint64]
    passages: NDArray[np.uint32]
    counts: NDArray[np.uint16]
    lengths: NDArray[np.uint32]

    def of(self, word: int) -> tuple[NDArray[np.uint32], NDArray[np.uint16]]:
        """The passages that have a word, uint32 [n] ascending, and how often, uint16 [n]."""
        number = np.uint64(word)
        place = int(np.searchsorted(self.words, number))
        if place == len(self.words) or self.words[place] != number:
            return self.passages[:0], self.counts[:0]
        first, last = self.offsets[place : place + 2].tolist()
        return self.passages[first:last], self.counts[first:last]


def load_word_counts(files: FileCache, segment: SegmentReader) -> WordCounts:
    """The words of a segment, made where this machine has not kept them."""
    record = segment.record
    decides = f"words {RULES} {record.documents_file.sha256} {record.passages_file.sha256}"
    name = hashlib.sha256(decides.encode()).hexdigest()
    arrays = view_npz(files.derived(name, lambda: write_npz(_arrays(segment))), _specs(record.passages), name)
    return WordCounts(**arrays)  # type: ignore[arg-type]  # dtypes are in the specs


def _specs(passages: int) -> dict[str, ArraySpec]:
    return {
        "words": ArraySpec("<u8", (None,)),
        "offsets": ArraySpec("<u8", (None,)),
        "passages": ArraySpec("<u4", (None,)),
        "counts": ArraySpec("<u2", (None,)),
        "lengths": ArraySpec("<u4", (passages,)),
    }


def _arrays(segment: SegmentReader) -> dict[str, NDArray[np.generic]]:
    blocks = [words_of(texts) for texts in segment.passage_texts()]
    numbers = np.unique(np.concatenate([one.numbers for one in blocks]))
    lengths = np.concatenate([np.diff(one.offsets) for one in blocks])
    by_word = _counted(blocks, numbers).tocsc()
    return {
        "words": numbers,
        "offsets": by_word.indptr.astype("<u8"),
        "passages": by_word.indices.astype("<u4"),
        "counts": np.minimum(by_word.data, _MOST_COUNTED).astype("<u2"),
        "lengths": lengths.astype("<u4"),
    }


def _counted(blocks: Sequence[Words], numbers: NDArray[np.uint64]) -> csr_array:
    """How often each passage has each of the words: int32 [P, V]."""
    tables = []
    for one in blocks:
        columns = np.searchsorted(numbers, one.numbers)[one.places]
        shape = (len(one.offsets) - 1, len(numbers))
        table = csr_array((np.ones(len(columns), np.int32), columns, one.offsets.copy()), shape=shape)
        table.sum_duplicates()  # changes its offsets in place
        tables.append(table)
    return vstack(tables, format="csr")

"""What a search is asked, as one record from the edge to the engine."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from index_format.filters import Filter
from serving.hybrid import Fusion
from serving.search import Recall


@dataclass(frozen=True, slots=True, eq=False)
class SearchQuery:
    """One question: a text, or its token vectors float32 [Q, D] where the caller encodes for itself.

    The answer has the hits from place `offset` on, `k` of them. recall: as in `serving.search.rank`.
    matching: which documents may be found. explain: whether the answer says what matched.
    fusion: how MaxSim and BM25 become one; without it MaxSim alone answers. BM25 needs the text.
    """

    text: str | None = None
    vectors: NDArray[np.float32] | None = None
    k: int = 10
    offset: int = 0
    recall: Recall = "balanced"
    matching: Filter | None = None
    explain: bool = False
    fusion: Fusion | None = None

    def __post_init__(self) -> None:
        assert (self.text is None) != (self.vectors is None), "a query is a text or vectors"
        assert self.fusion is None or self.text is not None, "BM25 knows texts alone"

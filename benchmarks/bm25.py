"""BM25, which Colonnade is held against."""

from __future__ import annotations

import logging

import bm25s
import numpy as np
import Stemmer
from numpy.typing import NDArray

from benchmarks.judged import Collection


def bm25_scores(collection: Collection) -> NDArray[np.float32]:
    """BM25 as Lucene has it, k1 1.2 and b 0.75: float32 [queries, documents], -inf where no word is shared."""
    logging.getLogger("bm25s").setLevel(logging.WARNING)  # it sets itself to DEBUG, and Prefect prints that
    stemmer = Stemmer.Stemmer("english")
    retriever = bm25s.BM25(method="lucene", k1=1.2, b=0.75)
    retriever.index(
        bm25s.tokenize(collection.texts, stopwords="en", stemmer=stemmer, show_progress=False), show_progress=False
    )
    scores = np.zeros((len(collection.queries), len(collection.texts)), np.float32)
    words = bm25s.tokenize(collection.queries, stopwords="en", stemmer=stemmer, return_ids=False, show_progress=False)
    for row, query in enumerate(words):
        if query:
            scores[row] = retriever.get_scores(query)
    return np.where(scores > 0, scores, np.float32(-np.inf))

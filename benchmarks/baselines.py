"""What Colonnade is held against: BM25, and one vector a document from the very same model."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path

import bm25s
import numpy as np
import Stemmer
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

from benchmarks.judged import Collection
from encoding.checkpoint import EMBEDDED, Checkpoint, open_checkpoint

_CACHE = Path(__file__).parent.parent / ".bench"


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


def single_vector_scores(collection: Collection) -> NDArray[np.float32]:
    """Cosine of one mean-pooled vector a text, cut at the model's own length: float32 [queries, documents]."""
    checkpoint = open_checkpoint(EMBEDDED)
    return _vectors(checkpoint, collection.queries) @ _vectors(checkpoint, collection.texts).T


def _vectors(checkpoint: Checkpoint, texts: Sequence[str]) -> NDArray[np.float32]:
    """Unit vectors float32 [n, D], from the cache when the same model encoded the same texts before."""
    content = json.dumps([checkpoint.fingerprint, *texts]).encode("utf-8", "surrogatepass")
    path = _CACHE / f"single-{hashlib.sha256(content).hexdigest()}.npy"
    if not path.exists():
        model = SentenceTransformer(str(checkpoint.folder), device="cpu")
        vectors = model.encode(list(texts), batch_size=32, normalize_embeddings=True, show_progress_bar=False)
        _CACHE.mkdir(exist_ok=True)
        np.save(path, np.asarray(vectors, np.float32))
    cached: NDArray[np.float32] = np.load(path)
    return cached

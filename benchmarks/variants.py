"""What codec, bits and pooling cost in quality: every batch of a build goes through each way of keeping vectors.

A batch is pooled by every factor, the vectors go through the real codec at every width, and the real kernels score
the codes; if asked, ColBERT's codec restores vectors that are scored in float32. So a row is what an index of these
settings answers when it is scored whole; what candidates cost beyond that shows in the road (road.py).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks.exact import Batch, Queries, SeenTexts, document_scores
from benchmarks.judged import Collection, Quality, measure, rank
from benchmarks.quantile_residual import QuantileResidual, fit
from encoding.chunking import Chunker
from encoding.encoder import Encoder
from encoding.pooling import pool_batch
from index_format.codebook import exclusive_sum
from index_format.codec import BITS, Codec
from serving.compress import compress
from serving.kernels.segments import SegmentTable
from serving.scoring import maxsim, prepare_query
from serving.snapshot import Snapshot
from tasks.measures import overlap

POOL_FACTORS = (1, 2, 3)
_RESIDUAL_PASSAGES = 2_500  # that the centroids and buckets of ColBERT's codec are made from
_SCALE_BYTES = 2


@dataclass(frozen=True, slots=True)
class Kept:
    """A batch in one way. vectors: float32 [T, D], restored. coded: codes and scales, where kernels score these."""

    vectors: NDArray[np.float32]
    coded: tuple[NDArray[np.uint8], NDArray[np.float16]] | None = None


Keep = Callable[[NDArray[np.float32]], list[Kept]]


class CodedQueries:
    """All queries as a search asks them, on codes of one codec."""

    def __init__(self, queries: Sequence[NDArray[np.float32]], codec: Codec) -> None:
        self._queries = [prepare_query(vectors, codec) for vectors in queries]
        self._row_bytes = codec.row_bytes
        self._pool = ThreadPoolExecutor(os.cpu_count())

    def score(self, seen: SeenTexts, positions: Sequence[int], lengths: Sequence[int], kept: Kept) -> None:
        """Score one batch as a segment of its own, of passages of these lengths, without centroids and outliers."""
        assert kept.coded is not None
        codes, scales = kept.coded
        none, no_ids = np.zeros(len(lengths) + 1, np.uint32), np.zeros(0, np.uint16)
        offsets = exclusive_sum(np.array(lengths))
        table = SegmentTable.of([[offsets, codes, scales, none, no_ids, none, codes[:0], scales[:0]]])
        passages = np.arange(len(lengths))
        scored = self._pool.map(lambda query: maxsim(query, table, self._row_bytes, passages), self._queries)
        seen.scores[:, positions] = list(scored)


@dataclass(slots=True)
class Way:
    """One way to keep vectors, and what became of those that went through.

    bits: None for float32 vectors. token_bytes: of each vector. queries: who scores what is kept. error: the sum of
    squared errors, and norm: of squared lengths.
    """

    codec: str
    pool_factor: int
    bits: int | None
    token_bytes: float
    calls: list[SeenTexts]
    queries: Queries | CodedQueries
    error: float = 0.0
    norm: float = 0.0
    vectors: int = 0


@dataclass(frozen=True, slots=True)
class Family:
    """Ways that are made from the same vectors at once, in the order in which `keep` gives them."""

    ways: list[Way]
    keep: Keep


@dataclass(frozen=True, slots=True)
class Variant:
    """What a way gave. token_bytes: for each token of text, pooled or not. error: squared, relative to float32.

    overlap_10: the share of the ten best passages by exact MaxSim of the same vectors that are among its own ten.
    """

    codec: str
    pool_factor: int
    bits: int | None
    token_bytes: float
    error: float
    overlap_10: float
    quality: Quality


class VariantsObserver:
    """Keeps the batches of a build in every way, and scores each.

    The first call of `encode` is the sample that a build calibrates its codec with: so do we, for each factor.
    """

    def __init__(
        self, queries: Sequence[NDArray[np.float32]], encoder: Encoder, residual: QuantileResidual | None
    ) -> None:
        """queries: float32 [Q, D] each. residual: ColBERT's codec, where that is to be measured too."""
        self._vectors, self._queries = queries, Queries(queries)
        self._protected, self._dim = encoder.protected, encoder.checkpoint.dim
        self._residual = residual
        self._calls, self._sample = 0, Batch()
        self._families: dict[int, list[Family]] = {}
        self.seconds = 0.0

    def begin(self, texts: Sequence[str]) -> None:
        """Note a new call of `encode`."""
        self._calls += 1
        if self._calls == 2:
            self._families = {factor: self._of_factor(factor) for factor in POOL_FACTORS}
        for way in self._ways():
            way.calls.append(self._queries.unseen(texts))

    def look(self, batch: Batch) -> None:
        """Keep and score one batch in every way."""
        started = time.perf_counter()
        if self._calls == 1:
            self._sample += batch
        for factor, families in self._families.items():
            pooled = self._pooled(batch, factor)
            vectors = np.concatenate([own for _, own in pooled])
            for family in families:
                for way, kept in zip(family.ways, family.keep(vectors), strict=True):
                    way.error += float(((kept.vectors - vectors) ** 2).sum())
                    way.norm += float((vectors**2).sum())
                    way.vectors += len(vectors)
                    _score(way, [at for at, _ in pooled], [len(own) for _, own in pooled], kept)
        self.seconds += time.perf_counter() - started

    def variants(self, collection: Collection, snapshot: Snapshot) -> list[Variant]:
        """What each way gave, when the build is done."""
        exact = {way.pool_factor: way for way in self._ways() if way.bits is None}
        return [
            Variant(
                codec=way.codec,
                pool_factor=way.pool_factor,
                bits=way.bits,
                token_bytes=way.token_bytes * way.vectors / exact[1].vectors,
                error=way.error / way.norm,
                overlap_10=_passage_overlap(way, exact[way.pool_factor]),
                quality=_quality(way, collection, snapshot),
            )
            for way in self._ways()
        ]

    def _ways(self) -> list[Way]:
        return [way for families in self._families.values() for family in families for way in family.ways]

    def _pooled(self, batch: Batch, factor: int) -> Batch:
        if factor == 1:
            return batch
        pooled = pool_batch([vectors for _, vectors in batch], factor, protected=self._protected)
        return [(position, own) for (position, _), own in zip(batch, pooled, strict=True)]

    def _of_factor(self, factor: int) -> list[Family]:
        """float32 and our codec at every width, and without pooling ColBERT's."""
        sample = np.concatenate([vectors for _, vectors in self._pooled(self._sample, factor)])
        codecs = [Codec.of(sample, bits) for bits in BITS]

        def direct(vectors: NDArray[np.float32]) -> list[Kept]:
            coded = [(codec, compress(codec, vectors)) for codec in codecs]
            return [Kept(vectors), *(Kept(codec.decompress(*own), own) for codec, own in coded)]

        way = partial(Way, pool_factor=factor)
        whole = way("float32", bits=None, token_bytes=4 * self._dim, calls=self._blank(), queries=self._queries)
        ours = [
            way(
                "direct",
                bits=codec.bits,
                token_bytes=codec.row_bytes + _SCALE_BYTES,
                calls=self._blank(),
                queries=CodedQueries(self._vectors, codec),
            )
            for codec in codecs
        ]
        families = [Family([whole, *ours], direct)]
        if self._residual and factor == 1:
            families.append(self._of_residual(self._residual))
        return families

    def _of_residual(self, residual: QuantileResidual) -> Family:
        def keep(vectors: NDArray[np.float32]) -> list[Kept]:
            return [Kept(restored) for restored in residual.restored(vectors)]

        return Family(
            [
                Way("quantile residual", 1, bits, residual.token_bytes(bits), self._blank(), self._queries)
                for bits in BITS
            ],
            keep,
        )

    def _blank(self) -> list[SeenTexts]:
        """What stands for the first call, so that calls and segments stay in step."""
        return [self._queries.unseen([""])]


def _score(way: Way, positions: Sequence[int], lengths: Sequence[int], kept: Kept) -> None:
    seen = way.calls[-1]
    if isinstance(way.queries, CodedQueries):
        way.queries.score(seen, positions, lengths, kept)
    else:
        parts = np.split(kept.vectors, np.cumsum(lengths)[:-1])
        way.queries.score(seen, list(zip(positions, parts, strict=True)))


def fit_residual(collection: Collection, encoder: Encoder) -> QuantileResidual:
    """ColBERT's codec, fitted on the passages of documents from all over a collection."""
    chunker = Chunker(encoder.tokenizer, passage_tokens=encoder.checkpoint.max_tokens, markers=encoder.document_markers)
    corpus = pq.read_table(collection.corpus, columns=["title", "text"])
    chosen = np.unique(np.linspace(0, len(corpus) - 1, _RESIDUAL_PASSAGES).astype(int))
    taken, texts = 0, list[str]()
    # In any order, so that those taken lie evenly even where far fewer are enough.
    for row in np.random.default_rng(0).permutation(chosen):
        if len(texts) >= _RESIDUAL_PASSAGES:
            break
        title, text = (corpus[name][int(row)].as_py() for name in ("title", "text"))
        texts += [passage.encoded_text for passage in chunker.passages(text, title)]
        taken += 1
    sample = np.concatenate([vectors for batch in encoder.encode(texts) for _, vectors in batch])
    return fit(sample, len(sample) * len(corpus) // taken, BITS)


def _passage_overlap(way: Way, exact: Way) -> float:
    """Of passages, not of documents: what a codec changes shows there first."""
    scores, wanted = (np.concatenate([seen.scores for seen in one.calls[1:]], axis=1) for one in (way, exact))
    names = [f"{number:09d}" for number in range(scores.shape[1])]
    return overlap(rank(scores, names), rank(wanted, names))


def _quality(way: Way, collection: Collection, snapshot: Snapshot) -> Quality:
    """A document is as good as its best passage."""
    scores = document_scores(way.calls, snapshot, collection.document_ids)
    return measure(collection, rank(scores, collection.document_ids))

"""Why a hit scored as it did: for each token of the query, the token of the passage that it matched, and with what.

Weights come from the codes of the index, by the definition of the score (SPEC §6.2): added up as float32 from the
first query token to the last, they are the score, bit for bit. The index holds no places of tokens, so the passage
is tokenised again, exactly as it was to be indexed; should that give another number of tokens, no place is told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from encoding.chunking import Chunker, EncodedText
from encoding.encoder import Encoder
from encoding.inputs import Token
from index_format.codec import unpack
from index_format.manifest import Manifest
from serving.scoring import Query, prepare_query
from serving.search import Hit, Ranking
from serving.snapshot import Snapshot

MAX_EXPLAINED = 100
"""Hits of one search; each is tokenised, and encoded again where vectors are pooled."""


@dataclass(frozen=True, slots=True)
class QueryToken:
    """A token of the query: characters `start` to `end` of its text without blanks around it, or null for what the
    encoder put there itself.
    """

    token: str
    start: int | None
    end: int | None


@dataclass(frozen=True, slots=True)
class Span:
    """Characters of a hit's title, or of the hit's text (the passage, not the document)."""

    field: Literal["title", "text"]
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Match:
    """What one token of the query found: a vector of the passage, by its place, and the weight of their likeness.

    spans: the characters that the vector stands for: of one token, or of all that share the vector where tokens are
    pooled; none for a token that the encoder put there itself.
    """

    weight: float
    vector: int
    spans: list[Span]


@dataclass(frozen=True, slots=True)
class HitExplanation:
    """One match for each token of the query, in its order. The weights, added as float32, are the score.

    Of a hybrid search, they are the MaxSim that went into it.
    pooled: whether vectors stand for several tokens. note: why there are no spans, where there should be.
    """

    matches: list[Match]
    pooled: bool
    note: str | None


@dataclass(frozen=True, slots=True)
class Explanation:
    """The tokens of the query, none where it came as vectors, and how each hit matched them, in the order of hits."""

    query: list[QueryToken]
    hits: list[HitExplanation]


def explain(
    snapshot: Snapshot,
    encoder: Encoder,
    vectors: NDArray[np.float32],
    ranking: Ranking,
    hits: Sequence[Hit],
    text: str | None = None,
) -> Explanation:
    """Explain the hits of a ranking for query vectors float32 [Q, D], and the query's tokens if its text is given."""
    query = prepare_query(vectors, snapshot.codec)
    explained = []
    for passage, hit in zip(ranking.passages, hits, strict=True):
        segment, ordinal = snapshot.place(passage)
        tokens = slice(*segment.codes.offsets[ordinal : ordinal + 2].tolist())
        weights, best = match_weights(query, segment.codes.codes[tokens], segment.codes.scales[tokens])
        spans = vector_spans(encoder, snapshot.manifest, hit)
        explained.append(_explained(weights, best, spans, tokens.stop - tokens.start, snapshot.manifest))
    own = [] if text is None else encoder.query_tokens(text)
    return Explanation([QueryToken(one.token, *(one.span or (None, None))) for one in own], explained)


def match_weights(
    query: Query, codes: NDArray[np.uint8], scales: NDArray[np.float16]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Each query token's part of a passage's score, float32 [Q], and the token that gives it, int64 [Q].

    codes: uint8 [T, row_bytes], scales: float16 [T], of the passage.
    """
    levels_TD = 2 * unpack(codes, query.bits).astype(np.float64) - (2**query.bits - 1)
    # Exact in float64, then rounded once, as the format has it.
    sums_TQ = (levels_TD @ query.levels.astype(np.float64).T).astype(np.float32)
    products_TQ = sums_TQ * scales.astype(np.float32)[:, None]
    best = products_TQ.argmax(axis=0)
    return products_TQ.max(axis=0) * (query.scales * np.float32(0.5)) + query.offsets, best


def vector_spans(encoder: Encoder, manifest: Manifest, hit: Hit) -> list[list[Span]]:
    """The characters of title and passage that each vector of a hit stands for, as it would be encoded now."""
    encoded = chunker_of(encoder, manifest).encoded_text(hit.text, hit.title)
    groups = encoder.document_tokens(encoded.text, manifest.chunking.pool_factor)
    return [[span for token in group for span in _spans(token, encoded)] for group in groups]


def chunker_of(encoder: Encoder, manifest: Manifest) -> Chunker:
    """What cuts documents of an index into passages."""
    return encoder.chunker(manifest.chunking.passage_tokens, manifest.chunking.overlap_tokens)


def _spans(token: Token, encoded: EncodedText) -> list[Span]:
    if token.span is None:
        return []
    start, end = token.span
    if end <= encoded.title:
        return [Span("title", start, end)]
    shift = encoded.skipped - encoded.title
    return [Span("text", max(start, encoded.title) + shift, end + shift)]


def _explained(
    weights: NDArray[np.float32], best: NDArray[np.int64], spans: list[list[Span]], vectors: int, manifest: Manifest
) -> HitExplanation:
    note = None
    if len(spans) != vectors:
        note = (
            f"The index holds {vectors} vectors of this passage, and its text gives {len(spans)} with this encoder: "
            "which characters they stand for is not known."
        )
        spans = [[]] * vectors
    matches = [
        Match(weight, vector, spans[vector]) for weight, vector in zip(weights.tolist(), best.tolist(), strict=True)
    ]
    return HitExplanation(matches, manifest.chunking.pool_factor > 1, note)

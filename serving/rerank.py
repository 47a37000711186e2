"""Texts that are in no index, scored against a query as the index at hand would score them.

Each text is cut into passages, encoded and compressed as a document of the index is, and scored by the same
definition, so scores can be set beside those of a search. Nothing is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from encoding.encoder import Encoder
from serving.compress import compress_each
from serving.explain import chunker_of, match_weights
from serving.scoring import prepare_query
from serving.snapshot import Snapshot

MAX_TEXTS = 1_000
MAX_CHARACTERS = 50_000
"""Of all texts together: some 12,000 tokens, each of which goes through the model."""


@dataclass(frozen=True, slots=True)
class Reranked:
    """A text's score: that of its best passage, characters `start` to `end`. position: its place among those given."""

    position: int
    score: float
    start: int
    end: int


def rerank(
    snapshot: Snapshot,
    encoder: Encoder,
    vectors: NDArray[np.float32],
    texts: Sequence[str],
    before_batch: Callable[[], None] = lambda: None,
) -> list[Reranked]:
    """All texts, best first, for query vectors float32 [Q, D]; equal scores in the order given.

    before_batch: called before each batch that is scored; what it raises ends the work.
    """
    manifest = snapshot.manifest
    query, chunker = prepare_query(vectors, snapshot.codec), chunker_of(encoder, manifest)
    cut = chunker.passages_of([(text, None) for text in texts])
    pieces = [(position, piece) for position, own in enumerate(cut) for piece in own]
    best: dict[int, Reranked] = {}
    for batch in encoder.encode([piece.encoded_text for _, piece in pieces], manifest.chunking.pool_factor):
        before_batch()
        compressed = compress_each(snapshot.codec, [tokens for _, tokens in batch])
        for (number, _), coded in zip(batch, compressed, strict=True):
            position, piece = pieces[number]
            weights, _ = match_weights(query, *coded)
            # Added in order, as float32: a sum in another order is another number.
            score = float(np.cumsum(weights, dtype=np.float32)[-1])
            known = best.get(position)
            if known is None or (-score, piece.start) < (-known.score, known.start):
                best[position] = Reranked(position, score, piece.start, piece.end)
    return sorted(best.values(), key=lambda one: (-one.score, one.position))

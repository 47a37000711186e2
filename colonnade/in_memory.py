"""Texts that are searched without an index: their token vectors are kept as they are, in memory, and scored exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from encoding.encoder import Encoder
from index_format.manifest import LEAST_PASSAGE_TOKENS


@dataclass(frozen=True, slots=True)
class Scored:
    """A text's score: that of its best passage. position: its place among all texts."""

    position: int
    score: float


class EncodedTexts:
    """Texts with their token vectors. passage_tokens: a longer text is cut into passages, and nothing of it is lost."""

    def __init__(self, encoder: Encoder, passage_tokens: int | None = None) -> None:
        most = encoder.checkpoint.max_tokens
        tokens = max(LEAST_PASSAGE_TOKENS, min(passage_tokens or most, most))
        self._encoder = encoder
        self._chunker = encoder.chunker(tokens)
        self._vectors: list[NDArray[np.float32]] = []
        self._positions: list[int] = []
        self.texts: list[str] = []

    def add(self, texts: Sequence[str]) -> None:
        """Encode more texts; an empty one is never found."""
        first = len(self.texts)
        cut = self._chunker.passages_of([(text, None) for text in texts])
        pieces = [(first + at, piece) for at, own in enumerate(cut) for piece in own]
        encoded = self._encoder.encode([piece.encoded_text for _, piece in pieces])
        by_piece = dict(pair for batch in encoded for pair in batch)
        self._vectors += [by_piece[number] for number in range(len(pieces))]
        self._positions += [position for position, _ in pieces]
        self.texts += texts

    def best(self, vectors: NDArray[np.float32], k: int) -> list[Scored]:
        """The best `k` texts for query vectors float32 [Q, D], all of them where there are fewer.

        Equal scores come in the order in which the texts were given.
        """
        found: dict[int, float] = {}
        for position, own_TD in zip(self._positions, self._vectors, strict=True):
            score = float((own_TD @ vectors.T).max(axis=0).sum())
            found[position] = max(score, found.get(position, -np.inf))
        order = sorted(found, key=lambda position: (-found[position], position))
        return [Scored(position, found[position]) for position in order[:k]]

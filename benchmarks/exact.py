"""Exact float32 MaxSim on the very vectors that an index is built from, without encoding or keeping them.

Encoding is the expensive part of a build, and the float vectors of a collection are eight times its codes. So an
encoder that is looked at takes the place of the flow's own: each batch meets all queries as it goes by.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from encoding.checkpoint import Checkpoint
from encoding.encoder import Encoder
from serving.snapshot import Snapshot

Batch = list[tuple[int, NDArray[np.float32]]]


@dataclass(frozen=True, slots=True)
class SeenTexts:
    """One call of `encode`: its first text, and the MaxSim of every query with each text, float32 [queries, texts]."""

    first_text: str
    scores: NDArray[np.float32]


class Observer(Protocol):
    """Looks at every batch that an encoder makes. seconds: what this took."""

    @property
    def seconds(self) -> float: ...

    def begin(self, texts: Sequence[str]) -> None:
        """A new call of `encode`; the batches that follow are of these texts."""
        ...

    def look(self, batch: Batch) -> None: ...


class Queries:
    """The token vectors of all queries, which score a batch at once."""

    def __init__(self, queries: Sequence[NDArray[np.float32]]) -> None:
        self._tokens = np.concatenate(queries)
        self._starts = np.cumsum([0, *map(len, queries[:-1])])

    def unseen(self, texts: Sequence[str]) -> SeenTexts:
        """Room for the scores of some texts."""
        return SeenTexts(texts[0], np.full((len(self._starts), len(texts)), -np.inf, np.float32))

    def score(self, seen: SeenTexts, batch: Batch) -> None:
        """Score one batch: one product with all query tokens, then a maximum and a sum over runs of it."""
        products = self._tokens @ np.concatenate([vectors for _, vectors in batch]).T
        first_tokens = np.cumsum([0, *(len(vectors) for _, vectors in batch[:-1])])
        best = np.maximum.reduceat(products, first_tokens, axis=1)
        seen.scores[:, [position for position, _ in batch]] = np.add.reduceat(best, self._starts, axis=0)


class FloatMaxSim:
    """Scores every batch of token vectors as they are."""

    def __init__(self, queries: Queries) -> None:
        self._queries = queries
        self.calls: list[SeenTexts] = []
        self.seconds = 0.0

    def begin(self, texts: Sequence[str]) -> None:
        """Note a new call of `encode`."""
        self.calls.append(self._queries.unseen(texts))

    def look(self, batch: Batch) -> None:
        """Score one batch."""
        started = time.perf_counter()
        self._queries.score(self.calls[-1], batch)
        self.seconds += time.perf_counter() - started


class WholeVectors:
    """Scores the one vector of each text, which comes first, by its cosine with that of each query."""

    def __init__(self, queries: Sequence[NDArray[np.float32]]) -> None:
        self._maxsim = FloatMaxSim(Queries([vectors[:1] / np.linalg.norm(vectors[0]) for vectors in queries]))

    @property
    def calls(self) -> list[SeenTexts]:
        return self._maxsim.calls

    @property
    def seconds(self) -> float:
        return self._maxsim.seconds

    def begin(self, texts: Sequence[str]) -> None:
        """Note a new call of `encode`."""
        self._maxsim.begin(texts)

    def look(self, batch: Batch) -> None:
        """Score one batch."""
        self._maxsim.look([(position, vectors[:1]) for position, vectors in batch])


class ObservedEncoder(Encoder):
    """The product's encoder, whose batches are looked at on their way."""

    def __init__(self, checkpoint: Checkpoint, observers: Sequence[Observer]) -> None:
        super().__init__(checkpoint)
        self._observers = observers

    def encode(self, texts: Sequence[str], pool_factor: int = 1) -> Iterator[Batch]:
        """As the product encodes, with a look at each batch."""
        for observer in self._observers:
            observer.begin(texts)
        for batch in super().encode(texts, pool_factor):
            for observer in self._observers:
                observer.look(batch)
            yield batch


@contextmanager
def observing(checkpoint: Checkpoint, observers: Sequence[Observer]) -> Iterator[None]:
    """Let the flows of this process encode under the eyes of observers; they run their tasks one at a time."""
    with patch("tasks.encode_shard.load_encoder", return_value=ObservedEncoder(checkpoint, observers)):
        yield


def document_scores(calls: Sequence[SeenTexts], snapshot: Snapshot, document_ids: Sequence[str]) -> NDArray[np.float32]:
    """The best passage of each document, from a build that was observed: float32 [queries, documents]."""
    columns = {document_id: column for column, document_id in enumerate(document_ids)}
    shards = calls[1:]  # the first is the sample that the codec is calibrated with
    scores = np.full((len(columns), len(calls[0].scores)), -np.inf, np.float32)
    for seen, segment in zip(shards, snapshot.segments, strict=True):
        first = segment.read_documents([0])[0]
        end = segment.passages["end"][0].as_py()
        if len(segment.document_rows) != seen.scores.shape[1] or not seen.first_text.endswith(
            str(first["text"])[:end].strip()
        ):
            raise RuntimeError("The calls of `encode` are not the segments of the index, one after another.")
        ids = segment.document_ids.to_pylist()
        own = np.array([columns[ids[row]] for row in segment.document_rows])
        np.maximum.at(scores, own, seen.scores.T)
    return scores.T

"""Text to token vectors: documents in batches, queries one by one, each as the checkpoint's layout has it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from encoding.batches import batches_by_length, halving, one_ahead, windows_by_length
from encoding.checkpoint import Checkpoint, open_checkpoint
from encoding.chunking import Chunker
from encoding.inputs import SideTokenizer, Token, TokenizedText, load_tokenizer
from encoding.model import TokenModel
from encoding.pooling import pool_batch, pooled_groups
from encoding.transfers import StartedVectors
from index_format.errors import InputError
from index_format.manifest import EncoderRecord

WHOLE_TEXT = "[whole text]"
"""How the vector of a whole text is spelled among those of tokens."""

WHOLE_WEIGHT = 0.5
"""What the vector of a whole query weighs, as a share of all its tokens together (docs/decisions/0005)."""

BATCH_TOKENS = {"cpu": 2048, "cuda": 32768}  # docs/decisions/0006: rows enough for a GPU, little padding
_BATCHES_AHEAD = 2  # on the device and on the way from it, while the caller has the one before
_WINDOW_BATCHES = 4  # texts are tokenised that many batches at a time, while the model has those before
_CHARACTERS_A_TOKEN = 4  # roughly: only the size of a window hangs on it

Batch = list[tuple[int, NDArray[np.float32]]]
TokenBatch = tuple[list[int], list[TokenizedText]]
StartedBatch = tuple[list[int], list[StartedVectors], int]
"""Positions, what the model was given, and the factor by which the vectors are still to be pooled."""


class Encoder:
    """One loaded checkpoint. Safe to use from several threads; each call runs on the model as it is."""

    def __init__(self, checkpoint: Checkpoint, device: str | None = None) -> None:
        self.checkpoint = checkpoint
        self.device = torch.device(device or _default_device())
        self.tokenizer = load_tokenizer(checkpoint.layout)
        self._documents = SideTokenizer(checkpoint.layout, checkpoint.layout.document)
        self._queries = SideTokenizer(checkpoint.layout, checkpoint.layout.query)
        self._has_whole = checkpoint.layout.whole is not None
        # Vectors in front that are never pooled: the first marker's, or the whole text's.
        self.protected = int(checkpoint.layout.keep_markers) + self._has_whole
        self._model = TokenModel(checkpoint.layout, self.device)

    @property
    def record(self) -> EncoderRecord:
        """What an index keeps of this encoder."""
        return self.checkpoint.record

    @property
    def document_markers(self) -> int:
        """Tokens of a passage that are not its text's: the markers, and those of the prompt."""
        return self._documents.added

    def chunker(self, passage_tokens: int, overlap_tokens: int = 0) -> Chunker:
        """What cuts documents into passages that this encoder reads whole. Raises InputError for too little room."""
        return Chunker(
            self.tokenizer,
            passage_tokens=passage_tokens,
            overlap_tokens=overlap_tokens,
            markers=self.document_markers,
            lengths=self._documents.lengths,
        )

    def encode(self, texts: Sequence[str], pool_factor: int = 1) -> Iterator[Batch]:
        """Encode the texts of documents in batches of similar length, shortest first.

        Yields lists of (position in `texts`, vectors float32 [tokens, D]); every position comes once. The vectors
        are unit vectors, or pooled ones where `pool_factor` is above 1. A GPU is at work on the next batch meanwhile.
        """
        if self.device.type == "cpu":
            return (self._fetched(self._started(one, pool_factor)) for one in self.batches(texts))
        return self._overlapped(self.batches(texts), pool_factor)

    def batches(self, texts: Sequence[str]) -> Iterator[TokenBatch]:
        """The texts of documents, tokenised, in the batches that go through the model: positions and tokens."""
        most_tokens = BATCH_TOKENS[self.device.type]
        characters = _WINDOW_BATCHES * _CHARACTERS_A_TOKEN * most_tokens
        windows = windows_by_length([len(text) for text in texts], characters)
        rest: TokenBatch = [], []  # the last batch of a window waits for the next one to fill it up
        for window, tokenized in one_ahead((window, self._tokens_of(texts, window)) for window in windows):
            positions, tokens, rest = rest[0] + window, rest[1] + tokenized, ([], [])
            for batch in batches_by_length([len(one.ids) for one in tokens], most_tokens):
                if rest[0]:
                    yield rest
                rest = [positions[one] for one in batch], [tokens[one] for one in batch]
        if rest[0]:
            yield rest

    def _overlapped(self, batches: Iterator[TokenBatch], pool_factor: int) -> Iterator[Batch]:
        """Each batch is on the device before those in front of it are here, so that the device never waits.

        The thread only waits and copies, which needs no lock of Python's: one that ran the model would share the lock
        with the caller for each of its hundreds of calls.
        """
        with ThreadPoolExecutor(1, "fetch") as thread:
            coming: deque[Future[Batch]] = deque()
            for one in batches:
                coming.append(thread.submit(self._fetched, self._started(one, pool_factor)))
                if len(coming) > _BATCHES_AHEAD:
                    yield coming.popleft().result()
            while coming:
                yield coming.popleft().result()

    def _started(self, batch: TokenBatch, pool_factor: int) -> StartedBatch:
        """A batch on its way through the model, in parts where memory has no room for it as one.

        A GPU pools it there: scipy would take many times as long as it encodes.
        """
        positions, tokens = batch
        factor = 1 if self.device.type == "cpu" else pool_factor
        parts = halving(lambda some: [self._model.start(some, factor)], tokens)
        return positions, parts, pool_factor // factor

    def _fetched(self, batch: StartedBatch) -> Batch:
        positions, parts, pool_factor = batch
        vectors = [one for part in parts for one in part.vectors()]
        if pool_factor > 1:
            vectors = pool_batch(vectors, pool_factor, protected=self.protected)
        return list(zip(positions, vectors, strict=True))

    def encode_query(self, text: str) -> NDArray[np.float32]:
        """The vectors of a query: float32 [Q, D], as in `encode_queries`."""
        return self.encode_queries([text])[0]

    def encode_queries(self, texts: Sequence[str]) -> list[NDArray[np.float32]]:
        """The vectors of several queries, each float32 [Q, D], from as few passes as memory allows.

        They are unit vectors, but for that of the whole text: it is half as long as there are tokens, and so weighs
        half as much in a score as all of them together. They equal those of `encode_query` to 3e-7 a component: padding
        changes the order of sums.
        """
        tokenized = self._queries.tokenize(texts)
        found: dict[int, NDArray[np.float32]] = {}
        for batch in batches_by_length([len(one.ids) for one in tokenized], BATCH_TOKENS[self.device.type]):
            found |= dict(self._fetched(self._started((batch, [tokenized[one] for one in batch]), 1)))
        if self._has_whole:
            for own in found.values():
                own[0] *= WHOLE_WEIGHT * (len(own) - 1)
        return [found[position] for position in range(len(texts))]

    def query_tokens(self, text: str) -> list[Token]:
        """The tokens that the vectors of `encode_query` stand for."""
        return self._front + self._queries.kept_tokens(text)

    def document_tokens(self, text: str, pool_factor: int = 1) -> list[list[Token]]:
        """The tokens that each vector of `encode` stands for: one, or with pooling those that share it.

        Which share one is known from their vectors, so with pooling the text goes through the model again.
        """
        tokens = self._front + self._documents.kept_tokens(text)
        if pool_factor == 1:
            return [[token] for token in tokens]
        ((_, vectors),) = next(self.encode([text]))
        groups = pooled_groups(vectors, pool_factor, protected=self.protected)
        return [[tokens[one] for one in group] for group in groups]

    @property
    def _front(self) -> list[Token]:
        return [Token(WHOLE_TEXT, None)] if self._has_whole else []

    def _tokens_of(self, texts: Sequence[str], window: list[int]) -> list[TokenizedText]:
        return self._documents.tokenize([texts[position] for position in window])


def load_encoder(name: str, device: str | None = None) -> Encoder:
    """The encoder of that name, loaded once in a process and on a device as long as its files stay the same.

    device: "cpu" or "cuda"; by default a GPU where there is one.
    """
    return _load(open_checkpoint(name), device or _default_device())


def load_encoder_of(index: EncoderRecord, name: str | None, device: str | None = None) -> Encoder:
    """The encoder of that name; where none is given, the one that an index was written with. device: as above."""
    if name is not None:
        return load_encoder(name, device)
    try:
        return load_encoder(index.name, device)
    except InputError as error:
        raise InputError(
            f"{error} The index was written with {index.name!r}, fingerprint {index.fingerprint[:16]}: "
            "name the place where that encoder is now with --encoder."
        ) from error


@lru_cache(maxsize=2)
def _load(checkpoint: Checkpoint, device: str) -> Encoder:
    return Encoder(checkpoint, device)


def _default_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"

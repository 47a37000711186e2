"""Text to token vectors, for documents and queries alike, so that the two cannot drift apart.

A plain encoder's last hidden states, one L2-normalised vector a token. The encoder's own markers and
punctuation are attended to but not kept: they match everything a little and cost bytes.
There is no [MASK] expansion: a model that was not trained for it loses by it.
"""

from __future__ import annotations

import string
from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from transformers import AutoModel
from transformers.utils import logging as transformers_logging

from encoding.checkpoint import TOKENIZER, Checkpoint, open_checkpoint
from index_format.manifest import EncoderRecord

BATCH_TOKENS = {"cpu": 2048, "cuda": 131072}


class Encoder:
    """One loaded checkpoint. Safe to use from several threads; each call runs on the model as it is."""

    def __init__(self, checkpoint: Checkpoint, device: str | None = None) -> None:
        self.checkpoint = checkpoint
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        transformers_logging.disable_progress_bar()
        model = AutoModel.from_pretrained(
            checkpoint.folder, use_safetensors=True, trust_remote_code=False, dtype=torch.float32
        )
        self._model = model.eval().to(self.device)
        self.tokenizer = _load_tokenizer(checkpoint)
        self._truncating = _load_tokenizer(checkpoint)
        self._truncating.enable_truncation(checkpoint.max_tokens)
        self._dropped = np.array(sorted(_dropped_ids(self.tokenizer)), np.int64)

    @property
    def record(self) -> EncoderRecord:
        """What an index keeps of this encoder."""
        return EncoderRecord(
            name=self.checkpoint.name, fingerprint=self.checkpoint.fingerprint, dim=self.checkpoint.dim
        )

    def encode(self, texts: Sequence[str]) -> Iterator[list[tuple[int, NDArray[np.float32]]]]:
        """Encode texts in batches of similar length, shortest first.

        Yields lists of (position in `texts`, vectors float32 [tokens, D]); every position comes once.
        """
        token_ids = [np.array(one.ids, np.int64) for one in self._truncating.encode_batch(list(texts))]
        for batch in batches_by_length([len(ids) for ids in token_ids], BATCH_TOKENS[self.device.type]):
            vectors = self._forward([token_ids[position] for position in batch])
            yield list(zip(batch, vectors, strict=True))

    def encode_query(self, text: str) -> NDArray[np.float32]:
        """The token vectors of a query: float32 [Q, D]."""
        ((_, vectors),) = next(self.encode([text]))
        return vectors

    @torch.inference_mode()
    def _forward(self, token_ids: list[NDArray[np.int64]]) -> list[NDArray[np.float32]]:
        lengths = [len(ids) for ids in token_ids]
        padded = torch.zeros((len(token_ids), max(lengths)), dtype=torch.long)
        mask = torch.zeros_like(padded)
        for row, ids in enumerate(token_ids):
            padded[row, : len(ids)] = torch.from_numpy(ids)
            mask[row, : len(ids)] = 1
        states = self._model(input_ids=padded.to(self.device), attention_mask=mask.to(self.device)).last_hidden_state
        vectors = torch.nn.functional.normalize(states, dim=-1).cpu().numpy()
        return [vectors[row, : len(ids)][self._kept(ids)] for row, ids in enumerate(token_ids)]

    def _kept(self, ids: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which tokens of a text are kept: bool [tokens]. A text of nothing but dropped tokens keeps them all."""
        kept = ~np.isin(ids, self._dropped)
        return kept if kept.any() else np.ones(len(ids), bool)


@lru_cache(maxsize=2)
def load_encoder(name: str) -> Encoder:
    """The encoder of that name, loaded once in a process."""
    return Encoder(open_checkpoint(name))


def batches_by_length(lengths: Sequence[int], most_tokens: int) -> Iterator[list[int]]:
    """Positions in batches of neighbouring lengths whose padded size stays within `most_tokens` (one text at least)."""
    batch: list[int] = []
    for position in sorted(range(len(lengths)), key=lambda one: (lengths[one], one)):
        if batch and (len(batch) + 1) * lengths[position] > most_tokens:
            yield batch
            batch = []
        batch.append(position)
    if batch:
        yield batch


def _load_tokenizer(checkpoint: Checkpoint) -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(checkpoint.folder / TOKENIZER))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _dropped_ids(tokenizer: Tokenizer) -> set[int]:
    markers = set(tokenizer.encode("").ids)
    punctuation = {tokenizer.token_to_id(symbol) for symbol in string.punctuation}
    return markers | {token for token in punctuation if token is not None}

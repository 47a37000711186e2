"""Documents to passages: as many whole sentences as fit the encoder, each with its exact character span.

The splitting is semantic-text-splitter's: it follows Unicode sentence and word boundaries, counts with the
encoder's own tokenizer, and keeps every character (`trim=False`), so that passages without overlap
concatenate to the document.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from semantic_text_splitter import TextSplitter
from tokenizers import Tokenizer

from index_format.errors import InputError

_MARKERS = 2  # [CLS] and [SEP], or their like
_SMALLEST_PASSAGE = 16


@dataclass(frozen=True, slots=True)
class Passage:
    """`document[start:end]`, and the text that is encoded for it (the title goes before it)."""

    start: int
    end: int
    encoded_text: str


class Chunker:
    """Cuts documents into passages of at most `passage_tokens` tokens, title and markers included."""

    def __init__(self, tokenizer: Tokenizer, *, passage_tokens: int, overlap_tokens: int = 0) -> None:
        if passage_tokens < 2 * _SMALLEST_PASSAGE:
            raise InputError(f"passage_tokens: expected at least {2 * _SMALLEST_PASSAGE}, got {passage_tokens}.")
        if not 0 <= overlap_tokens <= passage_tokens // 4:
            raise InputError(f"overlap_tokens: expected 0 to {passage_tokens // 4}, got {overlap_tokens}.")
        self._tokenizer = tokenizer
        self._room = passage_tokens - _MARKERS
        self._overlap = overlap_tokens
        self._splitter = lru_cache(maxsize=256)(self._make_splitter)

    def passages(self, text: str, title: str | None = None) -> list[Passage]:
        """The passages of a document, in order. An empty text has none."""
        prefix, used = self._prefix(title)
        chunks = self._splitter(self._room - used).chunk_indices(text)
        return [Passage(start, start + len(chunk), prefix + chunk.strip()) for start, chunk in chunks]

    def _prefix(self, title: str | None) -> tuple[str, int]:
        """The title as it goes before each passage, at most half of the room, and its tokens."""
        if not title:
            return "", 0
        spans = self._tokenizer.encode(title, add_special_tokens=False).offsets
        most = self._room // 2
        if len(spans) > most:
            return title[: spans[most - 1][1]] + " ", most
        return f"{title} ", len(spans)

    def _make_splitter(self, capacity: int) -> TextSplitter:
        overlap = min(self._overlap, capacity // 2)
        return TextSplitter.from_huggingface_tokenizer(self._tokenizer, capacity, overlap=overlap, trim=False)

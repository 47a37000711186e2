"""Documents to passages: as many whole sentences as fit the encoder, each with its exact character span.

The splitting is semantic-text-splitter's: it follows Unicode sentence and word boundaries, counts with the
encoder's own tokenizer, and keeps every character (`trim=False`), so that passages without overlap
concatenate to the document.

It sees a window of the document at a time: to cut a sentence that is too long it measures what is left of it
for every passage, which took time with the square of a text without sentence ends. A passage that reaches the end
of a window is cut anew with the next one, so windows show only where one alone holds no more than a passage.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from semantic_text_splitter import TextSplitter
from tokenizers import Tokenizer

from encoding.inputs import well_formed
from index_format.errors import InputError

_SMALLEST_PASSAGE = 16
_WINDOW_CHARACTERS = 20  # for each token of a passage: some passages of any script


@dataclass(frozen=True, slots=True)
class Passage:
    """`document[start:end]`, and the text that is encoded for it (the title goes before it)."""

    start: int
    end: int
    encoded_text: str


@dataclass(frozen=True, slots=True)
class EncodedText:
    """The text that is encoded for a passage: `title` characters of its title, then the passage from `skipped` on."""

    text: str
    title: int
    skipped: int


def refuse_little_room(passage_tokens: int, markers: int) -> None:
    """Raise InputError when passages are too small for a sentence, or `markers` leave too little of them."""
    if passage_tokens < 2 * _SMALLEST_PASSAGE:
        raise InputError(f"passage_tokens: expected at least {2 * _SMALLEST_PASSAGE}, got {passage_tokens}.")
    room = passage_tokens - markers
    if room < _SMALLEST_PASSAGE:
        raise InputError(
            f"passage_tokens: of {passage_tokens} the encoder's prompt and markers take {markers}, which leaves {room} "
            f"for text, expected at least {_SMALLEST_PASSAGE}. Cut into larger passages, or use a shorter prompt."
        )


class Chunker:
    """Cuts documents into passages of at most `passage_tokens` tokens, title and `markers` included."""

    def __init__(self, tokenizer: Tokenizer, *, passage_tokens: int, overlap_tokens: int = 0, markers: int = 2) -> None:
        refuse_little_room(passage_tokens, markers)
        if not 0 <= overlap_tokens <= passage_tokens // 4:
            raise InputError(f"overlap_tokens: expected 0 to {passage_tokens // 4}, got {overlap_tokens}.")
        self._tokenizer = tokenizer
        self._room = passage_tokens - markers
        self._window = _WINDOW_CHARACTERS * passage_tokens
        self._overlap = overlap_tokens
        self._splitter = lru_cache(maxsize=256)(self._make_splitter)

    def passages(self, text: str, title: str | None = None) -> list[Passage]:
        """The passages of a document, in order. An empty text has none.

        A lone surrogate counts as a character, and is encoded as U+FFFD.
        """
        text = well_formed(text)
        prefix, used = self._prefix(well_formed(title or ""))
        chunks = self._chunks(text, self._splitter(self._room - used))
        return [Passage(start, start + len(chunk), prefix + chunk.strip()) for start, chunk in chunks]

    def encoded_text(self, piece: str, title: str | None) -> EncodedText:
        """What is encoded for a piece of a document, and where its title and its text stand in it."""
        prefix, _ = self._prefix(well_formed(title or ""))
        piece = well_formed(piece)
        return EncodedText(prefix + piece.strip(), len(prefix), len(piece) - len(piece.lstrip()))

    def _chunks(self, text: str, splitter: TextSplitter) -> Iterator[tuple[int, str]]:
        """The pieces of a text with their starts, a window at a time."""
        start = 0
        while start < len(text):
            window = text[start : start + self._window]
            found = splitter.chunk_indices(window)
            whole = start + len(window) == len(text)
            # The last piece of a window may go on behind it: it is where the next window starts.
            complete = found if whole or len(found) == 1 else found[:-1]
            yield from ((start + at, chunk) for at, chunk in complete)
            start += len(window) if whole or len(found) == 1 else found[-1][0]

    def _prefix(self, title: str) -> tuple[str, int]:
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

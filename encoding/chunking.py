"""Documents to passages: as many whole sentences as fit the encoder, each with its exact character span.

The splitting is semantic-text-splitter's: it follows Unicode sentence and word boundaries, counts with the
encoder's own tokenizer, and keeps every character (`trim=False`), so that passages without overlap
concatenate to the document.

It sees a window of each document at a time: to cut a sentence that is too long it measures what is left of it
for every passage, which took time with the square of a text without sentence ends. A passage that reaches the end
of a window is cut anew with the next one, so windows show only where one alone holds no more than a passage.
The windows of many documents are cut at once, on all cores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
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


@dataclass(slots=True)
class _Cutting:
    """A document that is being cut: passages up to the character `start`. capacity: tokens of a passage."""

    text: str
    prefix: str
    capacity: int
    start: int = 0
    passages: list[Passage] = field(default_factory=list)

    @property
    def is_cut(self) -> bool:
        return self.start == len(self.text)

    def take(self, window: str, found: Sequence[tuple[int, str]]) -> None:
        """Add the pieces of the window that begins at `start`, each with its place there."""
        # The last piece of a window may go on behind it: it is where the next window starts.
        open_ended = len(found) > 1 and self.start + len(window) < len(self.text)
        for at, chunk in found[:-1] if open_ended else found:
            first = self.start + at
            self.passages.append(Passage(first, first + len(chunk), self.prefix + chunk.strip()))
        self.start += found[-1][0] if open_ended else len(window)


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
        (own,) = self.passages_of([(text, title)])
        return own

    def passages_of(self, documents: Sequence[tuple[str, str | None]]) -> list[list[Passage]]:
        """The passages of each of many documents (text, title), as `passages` has them."""
        cuttings = uncut = [self._begun(text, title) for text, title in documents]
        while uncut := [one for one in uncut if not one.is_cut]:
            by_capacity: dict[int, list[_Cutting]] = {}
            for one in uncut:
                by_capacity.setdefault(one.capacity, []).append(one)
            for capacity, own in by_capacity.items():
                windows = [one.text[one.start : one.start + self._window] for one in own]
                pieces = self._splitter(capacity).chunk_all_indices(windows)
                for one, window, found in zip(own, windows, pieces, strict=True):
                    one.take(window, found)
        return [one.passages for one in cuttings]

    def _begun(self, text: str, title: str | None) -> _Cutting:
        prefix, used = self._prefix(well_formed(title or ""))
        return _Cutting(well_formed(text), prefix, self._room - used)

    def encoded_text(self, piece: str, title: str | None) -> EncodedText:
        """What is encoded for a piece of a document, and where its title and its text stand in it."""
        prefix, _ = self._prefix(well_formed(title or ""))
        piece = well_formed(piece)
        return EncodedText(prefix + piece.strip(), len(prefix), len(piece) - len(piece.lstrip()))

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

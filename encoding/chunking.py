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

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from semantic_text_splitter import TextSplitter
from tokenizers import Tokenizer

from encoding.inputs import well_formed
from index_format.errors import InputError

_SMALLEST_PASSAGE = 16
_WINDOW_CHARACTERS = 20  # for each token of a passage: some passages of any script
_STEPS = 32  # into which the room for text is divided: so many lengths of titles are told apart
_SPLITTERS = 6  # each holds a copy of its tokenizer: 6 MB of MiniLM's, ten times that of a multilingual one


@dataclass(frozen=True, slots=True)
class Passage:
    """`document[start:end]`, and the text that is encoded for it (the title goes before it)."""

    start: int
    end: int
    encoded_text: str


@dataclass(slots=True)
class _Cutting:
    """A document that is being cut: passages up to the character `start`. capacity: tokens of the next passages."""

    text: str
    prefix: str
    capacity: int
    start: int = 0
    passages: list[Passage] = field(default_factory=list)

    @property
    def is_cut(self) -> bool:
        return self.start == len(self.text)

    def proposed(self, window: str, found: Sequence[tuple[int, str]]) -> tuple[list[Passage], int]:
        """The pieces of the window that begins at `start` as passages, and where the text behind them begins."""
        # The last piece of a window may go on behind it: it is where the next window starts.
        open_ended = len(found) > 1 and self.start + len(window) < len(self.text)
        places = [(self.start + at, chunk) for at, chunk in (found[:-1] if open_ended else found)]
        passages = [Passage(at, at + len(chunk), self.prefix + chunk.strip()) for at, chunk in places]
        return passages, self.start + (found[-1][0] if open_ended else len(window))

    def take(self, passages: Sequence[Passage], excess: Sequence[int], end: int, step: int) -> None:
        """Add the passages of `proposed` up to the first that is too long, by `excess` tokens above 0.

        From there on the text is cut shorter, but for a single character.
        """
        for passage, tokens in zip(passages, excess, strict=True):
            if tokens > 0 and self.capacity > 1 and passage.end - passage.start > 1:
                steps = -(-tokens // step)
                self.start, self.capacity = passage.start, max(self.capacity - steps * step, self.capacity // 2)
                return
            self.passages.append(passage)
        self.start = end


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
    """Cuts documents into passages of at most `passage_tokens` tokens, title and `markers` included.

    lengths: the tokens of each text as the encoder reads it, with all that it adds; `Encoder.chunker` has them. By
    default those of the tokenizer, and `markers`. Joined to a title or cut out of a text the same characters may be
    other tokens, so each passage is counted once more as it will be read.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        passage_tokens: int,
        overlap_tokens: int = 0,
        markers: int = 2,
        lengths: Callable[[Sequence[str]], list[int]] | None = None,
    ) -> None:
        refuse_little_room(passage_tokens, markers)
        if not 0 <= overlap_tokens <= passage_tokens // 4:
            raise InputError(f"overlap_tokens: expected 0 to {passage_tokens // 4}, got {overlap_tokens}.")
        self._tokenizer = tokenizer
        self._passage_tokens = passage_tokens
        self._markers = markers
        self._room = passage_tokens - markers
        self._step = max(1, self._room // _STEPS)
        self._window = _WINDOW_CHARACTERS * passage_tokens
        self._overlap = overlap_tokens
        self._lengths = lengths or self._plain_lengths

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
            capacity = max(one.capacity for one in uncut)  # one after the other, as few splitters are kept
            self._cut_on([one for one in uncut if one.capacity == capacity], capacity)
        return [one.passages for one in cuttings]

    def _cut_on(self, cuttings: Sequence[_Cutting], capacity: int) -> None:
        """Cut a window of each document."""
        splitter = _splitter(self._tokenizer, capacity, min(self._overlap, capacity // 2))
        windows = [one.text[one.start : one.start + self._window] for one in cuttings]
        pieces = splitter.chunk_all_indices(windows)
        proposed = [one.proposed(*own) for one, own in zip(cuttings, zip(windows, pieces, strict=True), strict=True)]
        texts = [passage.encoded_text for passages, _ in proposed for passage in passages]
        excess = iter([tokens - self._passage_tokens for tokens in self._lengths(texts)])
        for one, (passages, end) in zip(cuttings, proposed, strict=True):
            one.take(passages, [next(excess) for _ in passages], end, self._step)

    def _begun(self, text: str, title: str | None) -> _Cutting:
        prefix, used = self._prefix(well_formed(title or ""))
        # In whole steps: a splitter for each length of a title would be a copy of the tokenizer for each.
        return _Cutting(well_formed(text), prefix, max(1, self._room - -(-used // self._step) * self._step))

    def encoded_text(self, piece: str, title: str | None) -> EncodedText:
        """What is encoded for a piece of a document, and where its title and its text stand in it."""
        prefix, _ = self._prefix(well_formed(title or ""))
        piece = well_formed(piece)
        return EncodedText(prefix + piece.strip(), len(prefix), len(piece) - len(piece.lstrip()))

    def _prefix(self, title: str) -> tuple[str, int]:
        """The title as it goes before each passage, at most half of the room, and its tokens."""
        if not title:
            return "", 0
        prefix, most = f"{title} ", self._room // 2
        spans = self._tokenizer.encode(prefix, add_special_tokens=False).offsets
        if len(spans) <= most:
            return prefix, len(spans)
        return title[: spans[most - 1][1]] + " ", most

    def _plain_lengths(self, texts: Sequence[str]) -> list[int]:
        encoded = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [self._markers + len(one.ids) for one in encoded]


@lru_cache(maxsize=_SPLITTERS)
def _splitter(tokenizer: Tokenizer, capacity: int, overlap: int) -> TextSplitter:
    return TextSplitter.from_huggingface_tokenizer(tokenizer, capacity, overlap=overlap, trim=False)

"""Texts to the tokens that a model reads, as the checkpoint's layout has them for queries or for documents.

Text that is not quite text has a result, too: a lone surrogate, which no tokenizer takes, is read as U+FFFD;
control characters are the tokenizer's business, which drops most; a text longer than the model takes is cut
at its last token; and a text without tokens is read as its markers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, normalizers

from encoding.layouts.files import TOKENIZER
from encoding.layouts.layout import Layout, Side, Skip
from index_format.errors import InputError


@dataclass(frozen=True, slots=True)
class TokenizedText:
    """ids: int64 [tokens]; the model attends to the first `attended`. kept: bool [tokens], whose vectors stay."""

    ids: NDArray[np.int64]
    attended: int
    kept: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Token:
    """A token whose vector is kept. span: its characters in the text, None for what the encoder put there itself."""

    token: str
    span: tuple[int, int] | None


class SideTokenizer:
    """Makes `TokenizedText`s of one side. Safe to use from several threads.

    added: tokens of a text that are not its own: the markers, and those of the prompt.
    Raises InputError when they leave no room for it, or the tokenizer lacks a marker.
    """

    def __init__(self, layout: Layout, side: Side) -> None:
        self._side = side
        self._lowered = layout.lowercase == "all"
        self._tokenizer = _tokenizer(layout.backbone, lowercase=layout.lowercase == "words")
        markers = self._tokenizer.encode("").ids
        self._markers = len(markers) + (side.marker is not None)
        self.added = self._markers + len(self._plain_ids(side.prompt))
        if self.added >= side.length:
            raise InputError(
                f"encoder: {layout.backbone} puts {self.added} tokens of markers and prompt to each query or document, "
                f"which may have {side.length} with them: nothing of the text itself is left. "
                "Shorten the prompt, or mend the length in the model's settings."
            )
        self._marker = None if side.marker is None else self._id(layout, side.marker)
        self._filling = None if side.expansion is None else self._id(layout, side.expansion.token)
        padding = side.expansion.padding if side.expansion else None
        self._padding = None if padding is None else self._tokenizer.token_to_id(padding)
        dropped = _skipped(self._tokenizer, side.skip) | (set() if layout.keep_markers else set(markers))
        self._dropped = np.array(sorted(dropped), np.int64)
        self._tokenizer.enable_truncation(side.length - (side.marker is not None))

    def tokenize(self, texts: Sequence[str]) -> list[TokenizedText]:
        """The tokens of each text."""
        return self._tokenized([one.ids for one in self._tokenizer.encode_batch_fast(list(map(self._read, texts)))])

    def kept_tokens(self, text: str) -> list[Token]:
        """The tokens of a text whose vectors are kept, in the order of the vectors."""
        encoded = self._tokenizer.encode(self._read(text))
        prompted = self._side.prompt + text
        places = self._places(prompted)
        # Where the text begins in what the tokenizer read.
        shift = len(self._side.prompt) - (len(prompted) - len(prompted.lstrip()) if self._side.strip else 0)
        inside = zip(encoded.offsets, encoded.special_tokens_mask, strict=True)
        told = [((places[start], places[max(end - 1, 0)] + (end > start)), special) for (start, end), special in inside]
        spans = [None if special or end <= max(start, shift) else (start, end) for (start, end), special in told]
        own = [span and (max(span[0] - shift, 0), span[1] - shift) for span in spans]
        if self._marker is not None:
            own = [*own[:1], None, *own[1:]]
        (made,) = self._tokenized([encoded.ids])
        own += [None] * (len(made.ids) - len(own))
        spelled = [self._tokenizer.id_to_token(one) or "" for one in made.ids.tolist()]
        return [Token(*one) for one, kept in zip(zip(spelled, own, strict=True), made.kept, strict=True) if kept]

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """How many tokens `tokenize` makes of each text, before expansion, were none of them cut off."""
        encoded = self._tokenizer.encode_batch_fast(list(map(self._read, texts)), add_special_tokens=False)
        return [self._markers + sum(len(part.ids) for part in [one, *one.overflowing]) for one in encoded]

    def _read(self, text: str) -> str:
        text = self._side.prompt + text
        text = well_formed(text.strip() if self._side.strip else text)
        return text.lower() if self._lowered else text

    def _places(self, prompted: str) -> Sequence[int]:
        """Where in the text with its prompt, without white space around it, each place of what is read lies."""
        stripped = prompted.strip() if self._side.strip else prompted
        if not self._lowered:
            return range(len(stripped) + 1)
        # The dotted capital I alone is two characters in lower case.
        return [at for at, one in enumerate(stripped) for _ in one.lower()] + [len(stripped)]

    def _tokenized(self, texts: Sequence[list[int]]) -> list[TokenizedText]:
        """Texts as the tokenizer has them, all at once: arrays of one text cost more than they hold."""
        if not texts:
            return []
        framed = [self._framed(ids) for ids in texts]
        together = np.fromiter(chain.from_iterable(ids for ids, _ in framed), np.int64)
        if self._padding is not None and self._filling is not None:
            together[together == self._padding] = self._filling
        kept = ~np.isin(together, self._dropped)
        ends = np.cumsum([len(ids) for ids, _ in framed])
        spans = list(pairwise([0, *ends.tolist()]))
        # A text of nothing but dropped tokens keeps them all: something must stand for it.
        for none in np.flatnonzero(~np.logical_or.reduceat(kept, [start for start, _ in spans])).tolist():
            kept[slice(*spans[none])] = True
        return [
            TokenizedText(together[start:end], attended, kept[start:end])
            for (start, end), (_, attended) in zip(spans, framed, strict=True)
        ]

    def _framed(self, ids: list[int]) -> tuple[list[int], int]:
        """The tokens with the side's marker and expansion, and how many of them are attended to."""
        ids = ids or [0]  # a tokenizer without markers makes nothing of an empty text
        if self._marker is not None:
            ids = [*ids[:1], self._marker, *ids[1:]]
        attended, expansion = len(ids), self._side.expansion
        if expansion is not None and self._filling is not None and attended < expansion.length:
            ids = ids + [self._filling] * (expansion.length - attended)
            attended = len(ids) if expansion.attend else attended
        return ids, attended

    def _plain_ids(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def _id(self, layout: Layout, token: str) -> int:
        found = self._tokenizer.token_to_id(token)
        if found is None and layout.kind == "ColBERT":
            found = _unknown_id(self._tokenizer)  # as ColBERT itself does, in training and after
        if found is None:
            raise InputError(
                f"encoder: {layout.backbone / TOKENIZER} lacks the token {token!r}, which queries or "
                "documents are marked with. Use the tokenizer that was saved with the model."
            )
        return found


def load_tokenizer(layout: Layout) -> Tokenizer:
    """The tokenizer of a checkpoint, without padding and truncation. Raises InputError when it cannot be read."""
    return _tokenizer(layout.backbone, lowercase=layout.lowercase is not None)


def _tokenizer(folder: Path, *, lowercase: bool) -> Tokenizer:
    path = folder / TOKENIZER
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises Exception itself
        raise InputError(f"encoder: {path} is not a tokenizer ({error}).") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    if lowercase:
        own = [] if tokenizer.normalizer is None else [tokenizer.normalizer]
        tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), *own])
    return tokenizer


def well_formed(text: str) -> str:
    """The text with each lone surrogate replaced by U+FFFD, one for one, so that places stay."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return "".join("\ufffd" if "\ud800" <= character <= "\udfff" else character for character in text)
    return text


def _skipped(tokenizer: Tokenizer, skip: Skip) -> set[int]:
    if skip.rule == "first token":
        encoded = (tokenizer.encode(word, add_special_tokens=False).ids for word in skip.words)
        return {ids[0] for ids in encoded if ids}
    unknown = _unknown_id(tokenizer) if skip.rule == "token or unknown" else None
    found = {tokenizer.token_to_id(word) for word in skip.words}
    return {one for one in (unknown if token is None else token for token in found) if one is not None}


def _unknown_id(tokenizer: Tokenizer) -> int | None:
    spelled = getattr(tokenizer.model, "unk_token", None)
    candidates = [spelled, "[UNK]", "<unk>"]
    return next(
        (tokenizer.token_to_id(one) for one in candidates if one and tokenizer.token_to_id(one) is not None), None
    )

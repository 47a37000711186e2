"""The words of texts in any script, as numbers that stay the same everywhere.

Text is brought to one form (NFKC, small letters) and cut at whatever is no letter, mark, digit or underscore.
English endings are taken off words of the letters a to z (Snowball), which does not ask in which language they are.
Scripts that put no space between words (Chinese, Japanese, Thai, Lao, Khmer, Burmese) give every character and
every two neighbours; a query of them gives the pairs alone, unless it is one character.
A query leaves out Lucene's 33 words that English has everywhere, unless it has no others; texts keep them.

A word's number is a hash of 64 bits: no dictionary has to be kept, or agreed on between segments.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import Stemmer
from numpy.typing import NDArray

from encoding.inputs import well_formed

RULES = f"1 Arrow {pa.__version__} Snowball {Stemmer.version()}"
"""What decides the words of a text: those of other rules cannot be compared with these."""

_BETWEEN = r"[^\p{L}\p{M}\p{N}_]+"
_BETWEEN_ASCII = r"[^a-z0-9_]+"  # the same where there is nothing else; the other takes a millisecond to be compiled
# Thai and Lao, Burmese, Khmer, kana, Han with its rarer blocks.
_UNSPACED = re.compile(
    r"([\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+)"
)
_LATIN = re.compile("[a-z]+")
_EVERYWHERE = frozenset(
    re.findall(
        "[a-z]+",
        "a an and are as at be but by for if in into is it no not of on or such that the their then there these they "
        "this to was will with",
    )
)


@dataclass(frozen=True, slots=True)
class Words:
    """The words of some texts, in their order.

    numbers: uint64 [V] ascending, the words that occur. places: int64 [W], of each word in `numbers`.
    offsets: int64 [N + 1], where each text begins in `places`.
    """

    numbers: NDArray[np.uint64]
    places: NDArray[np.int64]
    offsets: NDArray[np.int64]


def words_of(texts: Sequence[str]) -> Words:
    """The words of texts that are to be found."""
    cut = _cut(texts)
    # What is done to a word is done once for each that is different.
    stem = Stemmer.Stemmer("english", 0).stemWord  # for one thread at a time, so never kept
    given = [_parts(word, stem, asked=False) for word in cut.words]
    numbers, places = np.unique(
        np.array([_number(one) for own in given for one in own], np.uint64), return_inverse=True
    )
    counts = np.array([len(own) for own in given], np.int64)
    firsts, ends = _sums(counts), _sums(counts[cut.places])
    within = np.arange(ends[-1]) - np.repeat(ends[:-1], counts[cut.places])
    taken = places[np.repeat(firsts[cut.places], counts[cut.places]) + within]
    return Words(numbers, taken, ends[cut.offsets])


def query_words(text: str) -> list[int]:
    """The numbers of a query's words in their order, repeated as they are."""
    cut = _cut([well_formed(text)])
    found = [word for place in cut.places.tolist() if (word := cut.words[place])]  # '' is beside every comma
    stem = Stemmer.Stemmer("english", 0).stemWord
    telling = [word for word in found if word not in _EVERYWHERE] or found
    return [_number(part) for word in telling for part in _parts(word, stem, asked=True)]


@dataclass(frozen=True, slots=True)
class _Cut:
    """Texts cut between words. words: those that are different. places: int64 [W] in them. offsets: int64 [N + 1]."""

    words: list[str]
    places: NDArray[np.int64]
    offsets: NDArray[np.int64]


def _cut(texts: Sequence[str]) -> _Cut:
    plain = pc.utf8_lower(pc.utf8_normalize(pa.array(texts, pa.large_string()), form="NFKC"))
    cut = pc.split_pattern_regex(plain, _BETWEEN_ASCII if all(map(str.isascii, texts)) else _BETWEEN)
    coded = cut.flatten().dictionary_encode()
    words: list[str] = coded.dictionary.to_pylist()
    return _Cut(words, np.asarray(coded.indices, np.int64), np.asarray(cut.offsets, np.int64))


def _parts(word: str, stem: Callable[[str], str], *, asked: bool) -> list[str]:
    """What becomes of one word: itself, or the pieces that an unspaced script is in. asked: it is of a query."""
    if _LATIN.fullmatch(word):
        return [stem(word)]
    parts = []
    for piece in filter(None, _UNSPACED.split(word)):
        if _UNSPACED.fullmatch(piece):
            pairs = [piece[at : at + 2] for at in range(len(piece) - 1)]
            parts += pairs if asked and pairs else [*piece, *pairs]
        else:
            parts.append(stem(piece) if _LATIN.fullmatch(piece) else piece)
    return parts


def _number(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")


def _sums(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    sums = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=sums[1:])
    return sums

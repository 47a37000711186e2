"""What the files of a checkpoint say about making vectors of a text: one record, whatever their layout.

Tokens stand here as text. What ids they have is the tokenizer's business (`encoding/inputs.py`), so that a
layout can be read, and fingerprinted, without loading one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

# How a word to skip becomes a token: the token that is spelled so; or the unknown token where none is; or the
# first of the tokens that the word is cut into.
SkipRule = Literal["token", "token or unknown", "first token"]

# How a model that was trained to make one vector of a whole text makes it of its token states.
Whole = Literal["mean", "cls"]

# What of a text is made lower case: all but the special tokens that it spells, or those too, which then are none.
Lowercase = Literal["words", "all"]


@dataclass(frozen=True, slots=True)
class Skip:
    """Words whose tokens the model reads and whose vectors are not kept."""

    words: tuple[str, ...] = ()
    rule: SkipRule = "token"


@dataclass(frozen=True, slots=True)
class Expansion:
    """A text of fewer than `length` tokens is filled up with `token`, and the filling's vectors are kept.

    attend: whether the other tokens see the filling, too. padding: a token that is read as filling where the text
    itself spells it.
    """

    length: int
    token: str
    attend: bool
    padding: str | None = None


@dataclass(frozen=True, slots=True)
class Side:
    """How queries, or documents, become tokens.

    length: tokens at most, all markers included. prompt: text that goes before the text.
    marker: a token that goes after the first one. strip: whether white space around the text goes.
    """

    length: int
    prompt: str = ""
    marker: str | None = None
    expansion: Expansion | None = None
    skip: Skip = Skip()
    strip: bool = False


@dataclass(frozen=True, slots=True)
class Projection:
    """A linear layer over the token states: `tensor` and its bias in the weights of `folder`."""

    folder: Path
    tensor: str = "linear.weight"
    activation: str = "Identity"
    residual: bool = False


@dataclass(frozen=True, slots=True)
class Layout:
    """One checkpoint, read.

    kind: the name of the layout. backbone: the folder of the transformer and its tokenizer.
    keep_markers: whether the tokenizer's own first and last token count as tokens of the text.
    whole: how one vector more is made, of the whole text; it comes before those of the tokens.
    """

    kind: str
    backbone: Path
    dim: int
    query: Side
    document: Side
    projections: tuple[Projection, ...] = ()
    keep_markers: bool = True
    whole: Whole | None = None
    lowercase: Lowercase | None = None

"""Passages of a peer's index to documents: their texts in a file, and which positions and characters each one has.

A peer keeps passages. Those that follow each other under one id are a document. Its text is their texts: what the end
of one and the beginning of the next have in common, as splitters leave it, is there once, else an empty line is between
them. What a splitter dropped is not known any more.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

from index_format.errors import SourceError
from tasks.imports.peer import PeerPassage
from tasks.rows import Rejected, Source
from tasks.stage_documents import MAX_ID_CHARACTERS, id_digest

NO_DOCUMENT = -1
_BETWEEN = "\n\n"
_LEAST_SHARED = 20  # characters; fewer are alike by chance
_COLUMNS = {"id_column": "colonnade:id", "text_column": "colonnade:text", "title_column": "colonnade:title"}


@dataclass(slots=True)
class Gathered:
    """The documents of an import.

    rows: a file with one row for each, in their order. By position: `document` int64 [P], its place in that order or
    NO_DOCUMENT; `start` and `end` uint32 [P], its characters in the document's text. sample: some passages' texts.
    """

    rows: Source
    document: NDArray[np.int64]
    start: NDArray[np.uint32]
    end: NDArray[np.uint32]
    documents: int = 0
    rejected: list[Rejected] = field(default_factory=list)
    sample: dict[int, PeerPassage] = field(default_factory=dict)


def gather_documents(
    passages: Iterable[PeerPassage], lengths: NDArray[np.int64], folder: Path, where: str, sample: Sequence[int]
) -> Gathered:
    """Write what all passages say to a file in `folder`, passages that cannot be indexed left out with their reason.

    lengths: tokens of each passage. where: the index, for messages. sample: positions whose texts are kept at hand.
    Raises SourceError when passages and lengths, or passages and ids, do not belong together.
    """
    made = Gathered(
        rows=Source(location=str(folder / "documents.jsonl"), **_COLUMNS),
        document=np.full(len(lengths), NO_DOCUMENT, np.int64),
        start=np.zeros(len(lengths), np.uint32),
        end=np.zeros(len(lengths), np.uint32),
    )
    wanted, seen = set(sample), set[bytes]()
    with Path(made.rows.location).open("w", encoding="utf-8", errors="replace") as file:
        for own_id, group in groupby(_counted(passages, len(lengths), where), key=lambda one: one[1].id):
            own = list(group)
            good = [one for one in own if _is_good(*one, made, lengths, where)]
            made.sample |= {at: one for at, one in good if at in wanted or not made.sample}
            if good:
                _check_id(own_id, own[0][0], seen, where)
                _check_alike(good, where)
                _write(file, good, made, where)
    if not made.documents:
        raise SourceError(
            f"{where}: no passage has a text. Name a file with an id and a text for each passage, in their order "
            "(--texts FILE), or the column of its metadata that has the texts (--text-column)."
        )
    return made


def _counted(passages: Iterable[PeerPassage], expected: int, where: str) -> Iterator[tuple[int, PeerPassage]]:
    """Passages with their positions. Raises SourceError unless there are as many as expected."""
    count = 0
    for count, passage in enumerate(passages, start=1):
        if count <= expected:
            yield count - 1, passage
    if count != expected:
        raise SourceError(
            f"{where}: holds vectors of {expected} passages, but there are texts for {count}: "
            "they do not belong together; nothing was imported."
        )


def _is_good(position: int, passage: PeerPassage, made: Gathered, lengths: NDArray[np.int64], where: str) -> bool:
    reason = None
    if lengths[position] == 0:
        reason = "it has no vectors: the index deleted it"
    elif passage.text is None or not passage.text.strip():
        reason = "the text is empty"
    if reason:
        made.rejected.append(Rejected(where, position + 1, passage.id or None, reason))
    return reason is None


def _check_id(own: str, position: int, seen: set[bytes], where: str) -> None:
    fault = None
    if not own.strip():
        fault = "has no document id"
    elif len(own) > MAX_ID_CHARACTERS:
        fault = f"has a document id of {len(own)} characters, at most {MAX_ID_CHARACTERS} are allowed"
    elif id_digest(own) in seen:
        fault = f"has the document id {own!r}, which other passages before it have"
    if fault:
        raise SourceError(f"{where}: passage {position} {fault}; nothing was imported.")
    seen.add(id_digest(own))


def _check_alike(passages: list[tuple[int, PeerPassage]], where: str) -> None:
    """Raise SourceError unless passages of one id say the same of their document."""
    _, first = passages[0]
    for position, passage in passages[1:]:
        if (passage.title, passage.metadata) != (first.title, first.metadata):
            raise SourceError(
                f"{where}: passage {position} has the document id {first.id!r} of the passage before it, and another "
                "title or other metadata. Give each passage an id of its own, or the same to all of a document."
            )


def _write(file: TextIO, passages: list[tuple[int, PeerPassage]], made: Gathered, where: str) -> None:
    """Add one document to the file, and its passages to the arrays."""
    whole, before = "", ""
    for position, passage in passages:
        text = passage.text or ""
        shared = shared_characters(before, text)
        whole += (_BETWEEN if whole and not shared else "") + text[shared:]
        made.document[position] = made.documents
        made.start[position], made.end[position] = len(whole) - len(text), len(whole)
        before = text
    _, first = passages[0]
    own = dict(zip(_COLUMNS.values(), (first.id, whole, first.title), strict=True))
    try:
        file.write(json.dumps({**first.metadata, **own}, ensure_ascii=False, allow_nan=False, default=str) + "\n")
    except ValueError as error:
        raise SourceError(f"{where}: metadata of {first.id!r} is no JSON ({error}); nothing was imported.") from error
    made.documents += 1


def shared_characters(before: str, text: str) -> int:
    """How many characters at the end of one passage are those at the beginning of the next; 0 for a few."""
    begins = text[:_LEAST_SHARED]
    if len(begins) < _LEAST_SHARED:
        return 0
    start = before.find(begins)
    while start >= 0 and not text.startswith(before[start:]):
        start = before.find(begins, start + 1)
    return 0 if start < 0 else len(before) - start

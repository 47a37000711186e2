"""What the passages of a peer's index say, where the index itself does not know: a file with a row for each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path

from index_format import schema
from index_format.errors import SourceError
from tasks.imports.peer import PeerIndex, PeerPassage
from tasks.rows import Rejected, Source, python_rows
from tasks.sources import read_rows


def passages_of(peer: PeerIndex, texts: Source | None) -> Iterator[PeerPassage]:
    """What every passage says, by position. Raises SourceError when nobody says it, or two do."""
    if texts is None and peer.passages is None:
        raise SourceError(
            f"{peer.folder}: an index of {peer.layout} without texts. Name a file with an id and a text for each of "
            f"its {len(peer.lengths)} passages, in their order: --texts FILE."
        )
    if texts is None:
        assert peer.passages is not None
        return peer.passages()
    if peer.layout == "RAGatouille":
        raise SourceError(f"{peer.folder}: an index of RAGatouille holds its texts: leave out --texts.")
    said = _collection(texts) if peer.layout == "ColBERT" and _is_collection(texts) else _rows(texts)
    return said if peer.passages is None else _with_metadata(said, peer.passages())


def _with_metadata(said: Iterator[PeerPassage], kept: Iterator[PeerPassage]) -> Iterator[PeerPassage]:
    """Passages of a file with the metadata that the index keeps too; where both name a column, the file's."""
    for one, own in zip_longest(said, kept):
        if one is not None:  # a count that is wrong is told where they are counted
            yield replace(one, metadata={**(own.metadata if own else {}), **one.metadata})


def _rows(texts: Source) -> Iterator[PeerPassage]:
    for rows in read_rows(texts):
        if isinstance(rows, Rejected):
            raise SourceError(f"{texts.location}: row {rows.row}: {rows.reason}; a passage would lose its text.")
        for number, (row, fault) in zip(rows.numbers, python_rows(rows.table), strict=True):
            if fault is not None:
                raise SourceError(f"{texts.location}: row {number}: {fault}; nothing was imported.")
            yield PeerPassage(row["id"] or "", row["text"], row["title"], row.get(schema.METADATA) or {})


def _is_collection(texts: Source) -> bool:
    """Whether a file is a collection as ColBERT takes it: passages by number, separated by tabs, without a header."""
    if not texts.location.endswith(".tsv") or not Path(texts.location).is_file():
        return False
    with Path(texts.location).open(encoding="utf-8") as file:
        return file.readline().split("\t")[0].strip() == "0"


def _collection(texts: Source) -> Iterator[PeerPassage]:
    """A collection of ColBERT: the passage's number, its text, and perhaps its title."""
    with Path(texts.location).open(encoding="utf-8") as file:
        for position, line in enumerate(file):
            number, *said = line.rstrip("\r\n").split("\t")
            if number.strip() != str(position) or not said:
                raise SourceError(
                    f"{texts.location}: line {position + 1}: expected passage {position} and its text, "
                    f"got {line[:60]!r}."
                )
            yield PeerPassage(str(position), said[0], said[1] if len(said) > 1 else None, {})

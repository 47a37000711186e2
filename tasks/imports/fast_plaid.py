"""fast-plaid's indexes, and next-plaid's, which lie on disk the same: `.npy` files, and what users say in SQLite.

Before 1.7 a chunk has files of its own, and all chunks are in a merged file too; since 1.7 a chunk that was merged
has none. A chunk's own files are newer where there are any. `embeddings.npy` and `buffer.npy` hold pickles: they are
never opened, and all that they hold is in the chunks too.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from index_format.errors import SourceError
from tasks.imports.peer import (
    Chunk,
    PeerIndex,
    PeerPassage,
    Residuals,
    checked_residuals,
    expect,
    read_chunk_lengths,
    read_count,
    read_json,
)

CENTROIDS = "centroids.npy"
METADATA = "metadata.db"
_POSITION = "_subset_"


def open_fast_plaid(folder: Path, columns: tuple[str, str, str]) -> PeerIndex:
    """Open an index of fast-plaid or next-plaid. Raises SourceError with what is wrong with it.

    columns: of id, text and title in its own metadata; without an id there, a passage's position is its id.
    """
    said = read_json(folder / "metadata.json")
    chunks = read_chunk_lengths(folder, said, "num_documents")
    lengths = np.concatenate(chunks)
    for name, own in {"num_documents": len(lengths), "num_embeddings": int(lengths.sum())}.items():
        expect(said.get(name, own) == own, f"{folder}: {name}", own, said.get(name))
    database = folder / METADATA
    return PeerIndex(
        layout="next-plaid" if "next_plaid_compatible" in said else "fast-plaid",
        folder=folder,
        residuals=_codec(folder, said),
        chunk_lengths=chunks,
        read_chunk=partial(_chunk, folder, chunks),
        passages=partial(read_rows_of, database, len(lengths), columns) if database.exists() else None,
    )


def read_rows_of(database: Path, passages: int, columns: tuple[str, str, str]) -> Iterator[PeerPassage]:
    """The rows of the metadata by position. Raises SourceError unless there is exactly one for each passage."""
    try:
        with closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            connection.row_factory = sqlite3.Row
            rows = connection.execute("SELECT * FROM METADATA ORDER BY _subset_")
            count = 0
            for count, row in enumerate(rows, start=1):
                expect(row[_POSITION] == count - 1, f"{database}: {_POSITION}", count - 1, row[_POSITION])
                yield _passage(database, dict(row), columns)
    except sqlite3.Error as error:
        raise SourceError(f"{database}: cannot be read ({error}); nothing was imported.") from error
    expect(count == passages, f"{database}: rows", f"{passages}, one for each passage", count)


def _passage(database: Path, row: dict[str, Any], columns: tuple[str, str, str]) -> PeerPassage:
    position = row.pop(_POSITION)
    for name, value in row.items():
        if isinstance(value, bytes):
            raise SourceError(f"{database}: column {name!r} is binary and cannot be metadata: leave it out.")
    own, text, title = (row.pop(name, None) for name in columns)
    said = {name: value for name, value in row.items() if value is not None}
    return PeerPassage(
        id=str(position if own is None else own),
        text=None if text is None else str(text),
        title=None if title is None else str(title),
        metadata=said,
    )


def _codec(folder: Path, said: dict[str, Any]) -> Residuals:
    centroids, weights = _load(folder / CENTROIDS), _load(folder / "bucket_weights.npy")
    return checked_residuals(folder, centroids, weights, read_count(said, "nbits", folder))


def _chunk(folder: Path, chunks: list[NDArray[np.int64]], number: int) -> Chunk:
    return Chunk(chunks[number], *(_rows(folder, chunks, number, name) for name in ("codes", "residuals")))


def _rows(folder: Path, chunks: list[NDArray[np.int64]], number: int, name: str) -> Any:
    """The rows of a chunk: from its own file, else from the merged one, which has them in the order of the chunks."""
    own, merged = folder / f"{number}.{name}.npy", folder / f"merged_{name}.npy"
    if own.exists() or not merged.exists():
        return _load(own)
    start = sum(int(lengths.sum()) for lengths in chunks[:number])
    return _load(merged)[start : start + int(chunks[number].sum())]


def _load(path: Path) -> NDArray[np.generic]:
    try:
        made: NDArray[np.generic] = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise SourceError(f"{path} is missing: the index is not whole; nothing was imported.") from None
    except (OSError, ValueError, EOFError) as error:
        raise SourceError(f"{path}: cannot be read as numbers ({error}); nothing was imported.") from error
    return made

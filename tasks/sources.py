"""Documents in, whatever they are in: tables by `tables.py`, and folders of text and Markdown.

Everything streams: a batch of rows at a time, whatever the size of the source. Rows that cannot be read
come out with their reason instead of stopping the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa

from index_format.errors import SourceError, StorageError
from tasks.rows import Rejected, Rows, Source
from tasks.tables import SUFFIXES, read_table

_TEXT_SUFFIXES = (".md", ".markdown", ".txt")
_WILDCARDS = set("*?[")


def read_rows(source: Source) -> Iterator[Rows | Rejected]:
    """All rows of a source in order, and those that could not be read. Raises SourceError when nothing can."""
    suffix = PurePosixPath(source.location).suffix.lower()
    files, path = find_source(source.location)
    if suffix in SUFFIXES:
        yield from read_table(source, suffix, files, path)
    elif files.isdir(path):
        yield from _read_folder(source.location, files, path)
    else:
        raise SourceError(f"{source.location}: expected a file ending in {', '.join(SUFFIXES)}, or a folder of text.")


def find_source(location: str) -> tuple[Any, str]:
    """The file system of a source, and its path there. Raises SourceError where there is nothing.

    Raises StorageError where that cannot be told, as without a connection.
    """
    if "\0" in location:
        raise SourceError(f"Cannot open {location!r}: it holds a NUL character, which neither a path nor a bucket has.")
    try:
        # A cached listing would hide files that came since this process last looked.
        files, path = fsspec.core.url_to_fs(location, use_listings_cache=False)
    except (ImportError, ValueError, OSError) as error:
        raise SourceError(f"{location}: cannot be opened ({error}).") from error
    try:
        there = bool(_WILDCARDS & set(path)) or files.exists(path)
    except Exception as error:  # each file system has errors of its own
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise StorageError(
            f"{location}: cannot be reached ({reason}). Check the address, the connection and the credentials, and run "
            "again. The index is as it was."
        ) from error
    if not there:
        raise SourceError(f"{location}: there is no such file or folder.")
    return files, path


def _read_folder(location: str, files: Any, folder: str) -> Iterator[Rows | Rejected]:
    """One document for each text or Markdown file: its path in the folder is the id, its first heading the title."""
    paths = sorted(path for path in files.find(folder) if path.lower().endswith(_TEXT_SUFFIXES))
    if not paths:
        raise SourceError(f"{location}: the folder holds no {', '.join(_TEXT_SUFFIXES)} file.")
    for row, path in enumerate(paths, start=1):
        document_id = PurePosixPath(path).relative_to(folder).as_posix()
        if not _is_utf8(document_id):
            yield Rejected(location, row, None, f"the file name {document_id!r} is not UTF-8")
            continue
        try:
            text = files.cat_file(path).decode("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            yield Rejected(location, row, document_id, f"cannot be read as UTF-8: {error}")
            continue
        columns = {"id": [document_id], "title": [_first_heading(text)], "text": [text]}
        yield Rows(np.array([row]), pa.table(columns, pa.schema({name: pa.string() for name in columns})))


def _is_utf8(name: str) -> bool:
    """Whether a name can be an id: Python keeps other bytes of a file name as halves of surrogate pairs."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _first_heading(text: str) -> str | None:
    first = next((line for line in text.splitlines() if line.strip()), "")
    return first.lstrip("#").strip() if first.startswith("#") else None

"""Documents as Python has them, as a source that the steps of the flows read.

They go through a file of JSON Lines, or of Parquet where they came as columns: so what holds for `colonnade add`
holds for them, and nothing is held in memory twice.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.interchange as interchange
import pyarrow.parquet as pq

from encoding.inputs import well_formed
from index_format.errors import InputError, SourceError, storage_error
from tasks.rows import Source

Documents = str | os.PathLike[str] | Mapping[str, Any] | Iterable[Mapping[str, Any]] | Any
"""What `Collection.add` takes: see there."""

_EXPECTED = (
    "documents: expected an iterable of dictionaries with id and text, a mapping of id to text, a table "
    "(Arrow, pandas, polars, DuckDB), or the path of a source"
)


def as_source(given: Documents, folder: Path, columns: Mapping[str, str]) -> Source:
    """The source of some documents; written into `folder` unless it is one. Raises SourceError or InputError.

    columns: names by `Source`'s own, such as id_column.
    """
    if isinstance(given, str | os.PathLike):
        return Source(location=os.fspath(given), **columns)
    tabular = _batches(given)
    if tabular is not None:
        path = _write_parquet(tabular, folder / "documents.parquet")
    else:
        path = _write_lines(_rows(given, columns), folder / "documents.jsonl")
    return Source(location=str(path), **columns)


def _batches(given: object) -> pa.RecordBatchReader | None:
    """The columns of whatever has some; None for other things."""
    try:
        if hasattr(given, "__arrow_c_stream__"):
            return pa.RecordBatchReader.from_stream(given)
        if hasattr(given, "__dataframe__"):
            return interchange.from_dataframe(given).to_reader()
    except (pa.ArrowException, TypeError, ValueError, ImportError) as error:
        raise SourceError(f"documents: the table cannot be read as Arrow ({error}).") from error
    return None


def _write_parquet(reader: pa.RecordBatchReader, path: Path) -> Path:
    # What pandas keeps of an index without a name is no metadata of anybody's document.
    names = [name for name in reader.schema.names if not name.startswith("__index_level_")]
    try:
        with reader, pq.ParquetWriter(path, pa.schema([reader.schema.field(name) for name in names])) as writer:
            for batch in reader:
                writer.write_batch(batch.select(names))
    except pa.ArrowException as error:
        raise SourceError(f"documents: the table cannot be written as Parquet ({error}).") from error
    except OSError as error:
        raise storage_error("write", str(path), error) from error
    return path


def _rows(given: Any, columns: Mapping[str, str]) -> Iterator[Mapping[str, Any]]:
    id_column, text_column = columns.get("id_column", "id"), columns.get("text_column", "text")
    if isinstance(given, Mapping):
        given = (
            {**one, id_column: key} if isinstance(one, Mapping) else {id_column: key, text_column: one}
            for key, one in given.items()
        )
    if not isinstance(given, Iterable):
        raise InputError(f"{_EXPECTED}; got {type(given).__name__}.")
    for row in given:
        if not isinstance(row, Mapping):
            raise InputError(f"{_EXPECTED}; got one that holds a {type(row).__name__}.")
        yield row


def _write_lines(rows: Iterable[Mapping[str, Any]], path: Path) -> Path:
    encoder = msgspec.json.Encoder(enc_hook=_plain)  # it writes null for what is not a number, which JSON cannot say
    with path.open("wb") as file:
        for row in rows:
            try:
                line = encoder.encode(row)
            except UnicodeEncodeError:
                line = encoder.encode(_mended(row))
            try:
                file.write(line + b"\n")
            except OSError as error:  # an error of the caller's own iterable stays what it is
                raise storage_error("write", str(path), error) from error
    return path


def _plain(value: Any) -> Any:
    """A value that JSON does not know: a scalar or an array of NumPy as Python has it, all else as text."""
    return value.tolist() if hasattr(value, "tolist") else str(value)


def _mended(value: Any) -> Any:
    """A value without lone surrogates."""
    if isinstance(value, Mapping):
        return {_mended(name): _mended(one) for name, one in value.items()}
    if isinstance(value, list | tuple | set):
        return [_mended(one) for one in value]
    return well_formed(value) if isinstance(value, str) else value

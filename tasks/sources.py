"""Documents in: Parquet, CSV, TSV and JSON Lines through DuckDB, and folders of text and Markdown.

Everything streams: a batch of rows at a time, whatever the size of the source. Rows that cannot be read
come out with their reason instead of stopping the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import duckdb
import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from index_format.errors import SourceError

BATCH_ROWS = 1024
_READERS = {
    ".parquet": "read_parquet(?)",
    ".csv": "read_csv(?, delim=',', quote='\"', escape='\"', header=true, sample_size=-1, store_rejects=true)",
    ".tsv": "read_csv(?, delim='\\t', quote='\"', escape='\"', header=true, sample_size=-1, store_rejects=true)",
    ".jsonl": "read_json(?, format='newline_delimited', ignore_errors=true, sample_size=-1)",
    ".ndjson": "read_json(?, format='newline_delimited', ignore_errors=true, sample_size=-1)",
}
_TEXT_SUFFIXES = (".md", ".markdown", ".txt")


class Source(BaseModel):
    """Where documents come from and which columns they are in."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    location: str = Field(
        min_length=1, description="A .parquet, .csv, .tsv, .jsonl or .ndjson file, or a folder of .txt and .md; or s3://"
    )
    id_column: str = Field(default="id", description="Column with the id of each document")
    text_column: str = Field(default="text", description="Column with the text")
    title_column: str = Field(default="title", description="Column with the title, where there is one")


@dataclass(frozen=True, slots=True)
class Rejected:
    """A row that cannot be indexed, and why. `row` counts from 1 within the source."""

    source: str
    row: int
    id: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class Rows:
    """Some rows of a source: their numbers, and a table of id, title, text and a struct of further columns."""

    numbers: NDArray[np.int64]
    table: pa.Table


def read_rows(source: Source) -> Iterator[Rows | Rejected]:
    """All rows of a source in order, and those that could not be read. Raises SourceError when nothing can."""
    suffix = PurePosixPath(source.location).suffix.lower()
    files, path = _filesystem(source.location)
    if suffix in _READERS:
        yield from _read_table(source, _READERS[suffix], files, path)
    elif files.isdir(path):
        yield from _read_folder(source.location, files, path)
    elif files.exists(path):
        raise SourceError(f"{source.location}: expected a file ending in {', '.join(_READERS)}, or a folder of text.")
    else:
        raise SourceError(f"{source.location}: there is no such file or folder.")


def _filesystem(location: str) -> tuple[Any, str]:
    try:
        files, path = fsspec.core.url_to_fs(location)
    except (ImportError, ValueError, OSError) as error:
        raise SourceError(f"{location}: cannot be opened ({error}).") from error
    return files, path


def _read_table(source: Source, reader: str, files: Any, path: str) -> Iterator[Rows | Rejected]:
    with closing(duckdb.connect()) as connection:
        if not source.location.startswith("s3://"):
            location = source.location
        else:
            # DuckDB reads buckets through s3fs: its own extension would have to be downloaded.
            connection.register_filesystem(files)
            location = f"s3://{path}"
        try:
            relation = connection.execute(f"SELECT * FROM {reader}", [location])
            batches = relation.to_arrow_reader(BATCH_ROWS)
            columns = _columns(source, batches.schema)
            row = 1
            for batch in batches:
                rows = Rows(np.arange(row, row + batch.num_rows), _named(source, columns, batch))
                yield from _split_unreadable(source, rows) if "json" in reader else [rows]
                row += batch.num_rows
            if "store_rejects" in reader:
                yield from _csv_rejects(source, connection)
        except (duckdb.Error, pa.ArrowException, OSError) as error:
            first_line = str(error).strip().splitlines()[0]
            raise SourceError(f"{source.location}: cannot be read: {first_line}") from error


def _columns(source: Source, schema: pa.Schema) -> list[str]:
    """Names of the metadata columns. Raises SourceError when id or text is missing."""
    for option, name in (("id", source.id_column), ("text", source.text_column)):
        if name not in schema.names:
            raise SourceError(
                f"{source.location}: there is no column {name!r} for the document's {option}; "
                f"it has {', '.join(map(repr, schema.names))}. Name the right one with --{option}-column."
            )
    return [name for name in schema.names if name not in (source.id_column, source.text_column, source.title_column)]


def _named(source: Source, metadata: list[str], batch: pa.RecordBatch) -> pa.Table:
    columns = {
        "id": _as_text(batch[source.id_column]),
        "title": _as_text(batch[source.title_column]) if source.title_column in batch.schema.names else None,
        "text": _as_text(batch[source.text_column]),
    }
    columns["title"] = columns["title"] if columns["title"] is not None else pa.nulls(batch.num_rows, pa.string())
    if metadata:
        columns["metadata"] = pa.StructArray.from_arrays([_plain(batch[name]) for name in metadata], names=metadata)
    return pa.table(columns)


def _as_text(column: pa.Array) -> pa.Array:
    """Strings of any column. DuckDB gives a column of mixed JSON types as JSON text, where strings have quotes."""
    values = _plain(column).cast(pa.string()).to_pylist()
    if _is_json(column):
        values = [value[1:-1] if value and value.startswith('"') else value for value in values]
    return pa.array(values, pa.string())


def _is_json(column: pa.Array) -> bool:
    return isinstance(column.type, pa.BaseExtensionType) and "json" in column.type.extension_name


def _plain(column: pa.Array) -> pa.Array:
    return column.storage if isinstance(column.type, pa.BaseExtensionType) else column


def _split_unreadable(source: Source, rows: Rows) -> Iterator[Rows | Rejected]:
    """Take out the rows of JSON Lines that DuckDB could not parse: it leaves them wholly empty."""
    unreadable = pc.and_(pc.is_null(rows.table["id"]), pc.is_null(rows.table["text"])).to_numpy()
    for number in rows.numbers[unreadable]:
        yield Rejected(source.location, int(number), None, "not valid JSON, or neither id nor text")
    yield Rows(rows.numbers[~unreadable], rows.table.filter(~unreadable))


def _csv_rejects(source: Source, connection: duckdb.DuckDBPyConnection) -> Iterator[Rejected]:
    found = connection.execute("SELECT line, first(error_message) FROM reject_errors GROUP BY line ORDER BY line")
    for line, message in found.fetchall():
        yield Rejected(source.location, int(line), None, f"line {line} is not valid CSV: {message}")


def _read_folder(location: str, files: Any, folder: str) -> Iterator[Rows | Rejected]:
    """One document for each text or Markdown file: its path in the folder is the id, its first heading the title."""
    paths = sorted(path for path in files.find(folder) if path.lower().endswith(_TEXT_SUFFIXES))
    if not paths:
        raise SourceError(f"{location}: the folder holds no {', '.join(_TEXT_SUFFIXES)} file.")
    for row, path in enumerate(paths, start=1):
        document_id = PurePosixPath(path).relative_to(folder).as_posix()
        try:
            text = files.cat_file(path).decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            yield Rejected(location, row, document_id, f"cannot be read as UTF-8: {error}")
            continue
        columns = {"id": [document_id], "title": [_first_heading(text)], "text": [text]}
        yield Rows(np.array([row]), pa.table(columns, pa.schema({name: pa.string() for name in columns})))


def _first_heading(text: str) -> str | None:
    first = next((line for line in text.splitlines() if line.strip()), "")
    return first.lstrip("#").strip() if first.startswith("#") else None

"""Documents in: Parquet, CSV, TSV and JSON Lines through DuckDB, and folders of text and Markdown.

Everything streams: a batch of rows at a time, whatever the size of the source. Rows that cannot be read
come out with their reason instead of stopping the rest.
"""

from __future__ import annotations

import csv
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
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_READERS = {
    ".parquet": "FROM read_parquet(?)",
    ".jsonl": "FROM read_json(?, format='newline_delimited', ignore_errors=true, sample_size=-1)",
    ".ndjson": "FROM read_json(?, format='newline_delimited', ignore_errors=true, sample_size=-1)",
}
_CSV = "FROM read_csv(?, delim=?, quote='\"', escape='\"', header=true, store_rejects=true, {types})"
_SUFFIXES = (*_READERS, *_DELIMITERS)
_TEXT_SUFFIXES = (".md", ".markdown", ".txt")


class Source(BaseModel):
    """Where documents come from and which columns they are in."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    location: str = Field(
        min_length=1,
        description="A .parquet, .csv, .tsv, .jsonl or .ndjson file, or a folder of .txt and .md; or s3://",
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
    if not files.exists(path) and not set(path) & set("*?["):
        raise SourceError(f"{source.location}: there is no such file or folder.")
    if suffix in _SUFFIXES:
        yield from _read_table(source, suffix, files, path)
    elif files.isdir(path):
        yield from _read_folder(source.location, files, path)
    else:
        raise SourceError(f"{source.location}: expected a file ending in {', '.join(_SUFFIXES)}, or a folder of text.")


def _filesystem(location: str) -> tuple[Any, str]:
    try:
        files, path = fsspec.core.url_to_fs(location, use_listings_cache=False)  # what came since is read too
    except (ImportError, ValueError, OSError) as error:
        raise SourceError(f"{location}: cannot be opened ({error}).") from error
    return files, path


def _read_table(source: Source, suffix: str, files: Any, path: str) -> Iterator[Rows | Rejected]:
    with closing(duckdb.connect()) as connection:
        location = source.location
        if location.startswith("s3://"):
            # DuckDB reads buckets through s3fs: its own extension would have to be downloaded.
            connection.register_filesystem(files)
        try:
            if suffix in _DELIMITERS:
                relation = _csv_relation(connection, location, suffix, files, path)
            else:
                relation = connection.sql(_READERS[suffix], params=[location])
            batches = _without_json_quotes(relation, source).to_arrow_reader(BATCH_ROWS)
            columns = _metadata_columns(source, batches.schema)
            row = 1
            for batch in batches:
                rows = Rows(np.arange(row, row + batch.num_rows), _named(source, columns, batch))
                yield from _split_unreadable(source, rows) if "json" in suffix else [rows]
                row += batch.num_rows
            if suffix in _DELIMITERS:
                yield from _csv_rejects(source, connection)
        except (duckdb.Error, pa.ArrowException, OSError) as error:
            first_line = str(error).strip().splitlines()[0]
            raise SourceError(f"{location}: cannot be read: {first_line}") from error


def _csv_relation(
    connection: duckdb.DuckDBPyConnection, location: str, suffix: str, files: Any, path: str
) -> duckdb.DuckDBPyRelation:
    """CSV as RFC 4180 has it, with types found over the whole file; all text where broken rows hide the types."""
    values = [location, _DELIMITERS[suffix]]
    try:
        return connection.sql(_CSV.format(types="sample_size=-1"), params=values)
    except duckdb.InvalidInputException:
        with files.open(path, "rt", encoding="utf-8-sig", newline="") as file:
            names = next(csv.reader(file, delimiter=_DELIMITERS[suffix]), [])
        columns = dict.fromkeys(names, "VARCHAR")
        return connection.sql(_CSV.format(types="auto_detect=false, columns=?"), params=[*values, columns])


def _without_json_quotes(relation: duckdb.DuckDBPyRelation, source: Source) -> duckdb.DuckDBPyRelation:
    """DuckDB types a JSON column of strings and numbers as JSON, where strings keep their quotes: take them off."""
    own = (source.id_column, source.text_column, source.title_column)
    quoted = {name: '"' + name.replace('"', '""') + '"' for name in relation.columns}
    json_columns = {name for name, kind in zip(relation.columns, relation.types, strict=True) if str(kind) == "JSON"}
    return relation.project(
        ", ".join(
            f"{column} ->> '$' AS {column}" if name in json_columns and name in own else column
            for name, column in quoted.items()
        )
    )


def _metadata_columns(source: Source, schema: pa.Schema) -> list[str]:
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
        "id": batch[source.id_column].cast(pa.string()),
        "title": pa.nulls(batch.num_rows, pa.string()),
        "text": batch[source.text_column].cast(pa.string()),
    }
    if source.title_column in batch.schema.names:
        columns["title"] = batch[source.title_column].cast(pa.string())
    if metadata:
        columns["metadata"] = pa.StructArray.from_arrays([batch[name] for name in metadata], names=metadata)
    return pa.table(columns)


def _split_unreadable(source: Source, rows: Rows) -> Iterator[Rows | Rejected]:
    """Take out the rows of JSON Lines that DuckDB could not parse: it leaves them wholly empty."""
    unreadable = pc.and_(pc.is_null(rows.table["id"]), pc.is_null(rows.table["text"])).to_numpy()
    for number in rows.numbers[unreadable]:
        yield Rejected(source.location, int(number), None, "not valid JSON, or neither id nor text")
    yield Rows(rows.numbers[~unreadable], rows.table.filter(pa.array(~unreadable)))


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
            text = files.cat_file(path).decode("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            yield Rejected(location, row, document_id, f"cannot be read as UTF-8: {error}")
            continue
        columns = {"id": [document_id], "title": [_first_heading(text)], "text": [text]}
        yield Rows(np.array([row]), pa.table(columns, pa.schema({name: pa.string() for name in columns})))


def _first_heading(text: str) -> str | None:
    first = next((line for line in text.splitlines() if line.strip()), "")
    return first.lstrip("#").strip() if first.startswith("#") else None

"""The documents, passages and statistics of one version as tables of DuckDB: to ask in SQL, and to write to a file.

The tables are views over the Parquet files of the index, or over their copies on this machine; nothing is loaded
before it is asked for. A statement of the user's sees them and nothing else, and cannot write.
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa

from colonnade import inspection
from index_format import schema
from index_format.errors import InputError, storage_error
from index_format.index import Index
from index_format.manifest import Manifest
from index_format.segment import SegmentReader

_DOCUMENTS = """
    FROM read_parquet({files}, union_by_name = true, filename = true, file_row_number = true) AS stored
    ANTI JOIN _deleted ON _deleted.file = stored.filename AND _deleted.row = stored.file_row_number
"""
_PASSAGES = """
    CREATE VIEW passages AS
    SELECT documents.id AS document_id, passage.number, passage.start, passage."end",
        substring(documents.text, passage.start::BIGINT + 1, passage."end"::BIGINT - passage.start) AS text
    FROM read_parquet({files}, filename = true) AS passage
    JOIN _files ON _files.passages = passage.filename
    JOIN (SELECT id, text, filename, file_row_number {documents}) AS documents
    ON documents.filename = _files.documents AND documents.file_row_number = passage.document
"""
_NO_DOCUMENTS = "CREATE TABLE documents (id VARCHAR, title VARCHAR, text VARCHAR)"
_NO_PASSAGES = (
    'CREATE TABLE passages (document_id VARCHAR, number UINTEGER, start UINTEGER, "end" UINTEGER, text VARCHAR)'
)
_FORMATS = {".parquet": "FORMAT parquet, COMPRESSION zstd", ".jsonl": "FORMAT json", ".ndjson": "FORMAT json"}


def select(index: Index, manifest: Manifest, statement: str) -> pa.Table:
    """The rows that a SELECT gives over the tables of a version. Raises InputError, with DuckDB's own message.

    documents: id, title, text, and a struct metadata where there is any. passages: document_id, number, start, end,
    text. segments and versions: what `inspect` and `versions` tell. Deleted documents are in none of them.
    """
    with _tables(index, manifest) as connection:
        try:
            found = connection.extract_statements(statement)
            if [one.type for one in found] != [duckdb.StatementType.SELECT]:
                raise InputError("sql: expected one SELECT statement; an index is changed by its own commands.")
            _lock(connection)
            return connection.sql(found[0]).to_arrow_table()
        except duckdb.Error as error:
            raise InputError(f"sql: {str(error).strip()}") from error


def export(index: Index, manifest: Manifest, path: Path, *, passages: bool = False) -> int:
    """Write the documents of a version to a Parquet or JSON Lines file, which is there whole or not at all.

    A row for each document: id, title, text, and its metadata as columns, as a source has them; in JSON, dates are
    text, and what is not a finite number is null. passages: instead a row for each passage. Returns the number of
    rows. Raises InputError and StorageError.
    """
    options = _FORMATS.get(path.suffix.lower())
    if options is None or re.match(r"\w+:/", str(path)):  # a Path has one slash of a bucket's two
        raise InputError(f"{path}: expected a local file ending in {', '.join(_FORMATS)}.")
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    with _tables(index, manifest) as connection:
        rows = (
            "SELECT * FROM passages"
            if passages
            else _flat(connection, index, as_json=path.suffix.lower() != ".parquet")
        )
        try:
            (written,) = connection.execute(f"COPY ({rows}) TO '{_text(part)}' ({options})").fetchall()[0]
            _make_durable(part, path)
        except duckdb.IOException as error:
            raise storage_error("write", str(path), OSError(str(error).strip())) from error
        except OSError as error:
            raise storage_error("write", str(path), error) from error
        finally:
            with suppress(OSError):
                part.unlink(missing_ok=True)
    return int(written)


def _flat(connection: duckdb.DuckDBPyConnection, index: Index, *, as_json: bool) -> str:
    """Documents with their metadata as columns of their own."""
    described = connection.sql("FROM documents")
    types = dict(zip(described.columns, described.types, strict=True))
    metadata = types[schema.METADATA].children if schema.METADATA in types else []
    taken = {"id", "title", "text"} & {name.lower() for name, _ in metadata}
    if taken:
        raise InputError(
            f"{index.address}: metadata has columns of the names {', '.join(sorted(taken))}, which a file has for the "
            "documents themselves. Choose other names with: colonnade sql."
        )
    columns = ["id", "title", "text"]
    for name, kind in metadata:
        quoted = '"' + name.replace('"', '""') + '"'
        value = f"metadata.{quoted}"
        if as_json and str(kind) in ("FLOAT", "DOUBLE"):
            value = f"CASE WHEN isfinite({value}) THEN {value} END"  # JSON has no other numbers
        columns.append(f"{value} AS {quoted}")
    return f"SELECT {', '.join(columns)} FROM documents"  # noqa: S608  # names are quoted


def _make_durable(part: Path, path: Path) -> None:
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.replace(path)


@contextmanager
def _tables(index: Index, manifest: Manifest) -> Iterator[duckdb.DuckDBPyConnection]:
    """A database in memory with the tables of a version."""
    files = [file for segment in manifest.segments for file in (segment.documents_file, segment.passages_file)]
    index.files.fetch(files)  # several at a time
    segments = index.segments(manifest)
    with closing(duckdb.connect()) as connection:
        # No spilling to disk, no progress bar, and names are those of tables, never of Python's variables.
        connection.execute("SET temp_directory = ''; SET enable_progress_bar = false")
        connection.execute("SET python_enable_replacements = false")
        paths = _paths(index, manifest)
        _make(connection, "_files", paths)
        _make(connection, "_deleted", _deleted(index, segments))
        _make(connection, "segments", _segments(segments))
        _make(connection, "versions", pa.Table.from_pylist(inspection.versions(index)))
        if segments:
            documents = _DOCUMENTS.format(files=_list(paths["documents"].to_pylist()))
            passages = _list(paths["passages"].to_pylist())
            has_metadata = any(segment.metadata_type.num_fields for segment in segments)
            wanted = "id, title, text, metadata" if has_metadata else "id, title, text"
            connection.execute(f"CREATE VIEW documents AS SELECT {wanted} {documents}")
            connection.execute(_PASSAGES.format(files=passages, documents=documents))
        else:
            connection.execute(f"{_NO_DOCUMENTS}; {_NO_PASSAGES}")
        yield connection


def _lock(connection: duckdb.DuckDBPyConnection) -> None:
    """From now on the files of the tables can be read, no other can, and nothing can be set otherwise."""
    files = connection.sql("SELECT documents FROM _files UNION ALL SELECT passages FROM _files").fetchall()
    connection.execute(f"SET allowed_paths = {_list([path for (path,) in files])}")
    connection.execute("SET enable_external_access = false; SET lock_configuration = true")


def _make(connection: duckdb.DuckDBPyConnection, name: str, rows: pa.Table) -> None:
    connection.register("_given", rows)
    connection.execute(f"CREATE TABLE {name} AS FROM _given")
    connection.unregister("_given")


def _paths(index: Index, manifest: Manifest) -> pa.Table:
    """Where the Parquet files of each segment are on this machine."""
    documents = [str(index.files.path(one.documents_file)) for one in manifest.segments]
    passages = [str(index.files.path(one.passages_file)) for one in manifest.segments]
    return pa.table({"documents": pa.array(documents, pa.string()), "passages": pa.array(passages, pa.string())})


def _deleted(index: Index, segments: list[SegmentReader]) -> pa.Table:
    """The deleted documents, by file and row."""
    files: list[str] = []
    rows: list[int] = []
    for segment in segments:
        own = np.flatnonzero(segment.deleted_rows).tolist()
        files += [str(index.files.path(segment.record.documents_file))] * len(own)
        rows += own
    return pa.table({"file": pa.array(files, pa.string()), "row": pa.array(rows, pa.int64())})


def _segments(segments: list[SegmentReader]) -> pa.Table:
    rows = [
        {
            "id": segment.record.id,
            "documents": segment.record.documents,
            "deleted_documents": int(segment.deleted_rows.sum()),
            "passages": segment.record.passages,
            "deleted_passages": int(segment.deleted.sum()),
            "tokens": segment.record.tokens,
            "bytes": sum(file.size for file in segment.record.files()),
        }
        for segment in segments
    ]
    numbers = ("documents", "deleted_documents", "passages", "deleted_passages", "tokens", "bytes")
    columns = pa.schema([("id", pa.string()), *((name, pa.int64()) for name in numbers)])
    return pa.Table.from_pylist(rows, schema=columns)


def _list(paths: list[str]) -> str:
    quoted = [f"'{_text(path)}'" for path in paths]
    return f"[{', '.join(quoted)}]"


def _text(value: object) -> str:
    return str(value).replace("'", "''")

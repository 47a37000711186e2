"""Parquet, CSV and JSON Lines as batches of rows, through DuckDB.

Ids, titles and texts are taken as they are written, never as the types they look like; only metadata is typed.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from duckdb.sqltypes import DuckDBPyType

from index_format.errors import SourceError
from tasks.rows import Rejected, Rows, Source

BATCH_ROWS = 1024
ROW_BYTES = 32_000_000  # the longest row of CSV: DuckDB reads in buffers of that size; and of JSON Lines at least
_TABLE_BYTES = 2**28  # Arrow's columns of text end at 2 GiB, and rows are turned into Python a table at a time
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_JSON = (".jsonl", ".ndjson")
SUFFIXES = (".parquet", *_DELIMITERS, *_JSON)
_CSV = (
    "FROM read_csv(?, delim=?, quote='\"', escape='\"', header=true, store_rejects=true, "
    f"max_line_size={ROW_BYTES}, buffer_size={ROW_BYTES}, {{types}})"
)
_CSV_REJECTS = """
SELECT file_path, line, bool_or(error_type = 'UNQUOTED VALUE') AS unquoted, first(error_message)
FROM reject_errors JOIN (SELECT DISTINCT scan_id, file_id, file_path FROM reject_scans) USING (scan_id, file_id)
GROUP BY file_id, file_path, line ORDER BY file_id, line"""
_OBJECTS = f"FROM read_ndjson_objects(?, ignore_errors=true, maximum_object_size={ROW_BYTES})"
_OBJECT = "OBJECT"
_NESTED = ("list", "array", "map", "struct")
# In JSON, values of several kinds in one place: text as it is, all else as JSON writes it.
_MIXED = {"JSON": "{} ->> '$'"}
# Times as Python has them, the rest cut off: DuckDB's own cast rounds, the end of a year into the next.
_MICROSECONDS = "epoch_ns({0}) // 1000 - CAST(epoch_ns({0}) % 1000 < 0 AS BIGINT)"
_FINE_TIMES = {
    "TIMESTAMP_NS": f"make_timestamp({_MICROSECONDS})",
    "TIMESTAMPTZ_NS": f"make_timestamptz({_MICROSECONDS})",
    "TIME_NS": "TIME '00:00' + to_microseconds(epoch_ns({}) // 1000)",
}


def read_table(source: Source, suffix: str, files: Any, path: str) -> Iterator[Rows | Rejected]:
    """All rows of a file, or of the files that a pattern names. Raises SourceError when nothing can be read."""
    with closing(duckdb.connect()) as connection:
        connection.execute("SET TimeZone = 'UTC'")  # a document says the same wherever it is read
        if source.location.startswith("s3://"):
            # DuckDB reads buckets through s3fs: its own extension would have to be downloaded.
            connection.register_filesystem(files)
        try:
            if suffix in _JSON:
                yield from _read_json(connection, source, files, path)
            elif suffix in _DELIMITERS:
                relation = _csv_relation(connection, source, _DELIMITERS[suffix], files, path)
                yield from _read_relation(connection, relation, source)
                yield from _csv_rejects(connection)
            else:
                relation = connection.sql("FROM read_parquet(?)", params=[source.location])
                yield from _read_relation(connection, relation, source)
        except (duckdb.Error, pa.ArrowException, OSError, UnicodeDecodeError, csv.Error) as error:
            first_line = str(error).strip().splitlines()[0]
            raise SourceError(f"{source.location}: cannot be read: {first_line}") from error


def _read_relation(
    connection: duckdb.DuckDBPyConnection, relation: duckdb.DuckDBPyRelation, source: Source
) -> Iterator[Rows | Rejected]:
    metadata = _metadata_columns(source, relation.columns)
    types = dict(zip(relation.columns, relation.types, strict=True))
    kinds = {name: str(kind) for name, kind in types.items()}
    for name in metadata:
        if "BLOB" in _types_within(types[name]):
            held = "is" if kinds[name] == "BLOB" else "holds what is"
            raise SourceError(f"{source.location}: column {name!r} {held} binary and cannot be metadata: leave it out.")
    own = {"id": source.id_column, "title": source.title_column, "text": source.text_column}
    texts = {name: _as_text(column, kinds.get(column)) for name, column in own.items()}
    wanted = [*(f"{text} AS {name}" for name, text in texts.items()), f"{_not_utf8(own, texts, kinds)} AS fault"]
    if metadata:
        each = {_quoted(name): _settled(_quoted(name), types[name], _FINE_TIMES) for name in metadata}
        wanted.append(f"struct_pack({', '.join(f'{name} := {value}' for name, value in each.items())}) AS metadata")
    row = 1
    for table in _tables(connection, relation.project(", ".join(wanted))):
        numbers = np.arange(row, row + table.num_rows)
        sound = np.array([fault is None for fault in table["fault"].to_pylist()], bool)
        for one, number in zip(table.filter(pa.array(~sound)).to_pylist(), numbers[~sound], strict=True):
            yield Rejected(source.location, int(number), one["id"], one["fault"])
        yield Rows(numbers[sound], table.drop_columns(["fault"]).filter(pa.array(sound)))
        row += table.num_rows


def _tables(connection: duckdb.DuckDBPyConnection, relation: duckdb.DuckDBPyRelation) -> Iterator[pa.Table]:
    """The rows of a relation in order, at most BATCH_ROWS at a time, and fewer where they are long."""
    usual = relation.limit(0).to_arrow_table().schema
    connection.execute("SET arrow_large_buffer_size = true")  # a batch of long texts may have more than 2 GiB
    for batch in relation.to_arrow_reader(BATCH_ROWS):
        for part in _in_parts(pa.Table.from_batches([batch])):
            # Taken, as a slice would bring the offsets of its batch, which the usual types may not hold.
            yield part.take(np.arange(part.num_rows)).cast(usual)


def _in_parts(table: pa.Table) -> Iterator[pa.Table]:
    if table.num_rows < 2 or table.nbytes <= _TABLE_BYTES:
        yield table
        return
    half = table.num_rows // 2
    yield from _in_parts(table.slice(0, half))
    yield from _in_parts(table.slice(half))


def _as_text(column: str, kind: str | None) -> str:
    """SQL for a column as text; for one of bytes, which old writers of Parquet leave unmarked, what they spell."""
    if kind is None:
        return "CAST(NULL AS VARCHAR)"
    return f"try(decode({_quoted(column)}))" if kind == "BLOB" else f"CAST({_quoted(column)} AS VARCHAR)"


def _not_utf8(own: dict[str, str], texts: dict[str, str], kinds: dict[str, str]) -> str:
    """SQL for why the bytes of a row are no text, null where they are."""
    faults = [
        f"WHEN {texts[name]} IS NULL AND {_quoted(column)} IS NOT NULL THEN 'the {name} is not UTF-8'"
        for name, column in own.items()
        if kinds.get(column) == "BLOB"
    ]
    return f"CASE {' '.join(faults)} END" if faults else "CAST(NULL AS VARCHAR)"


def _read_json(
    connection: duckdb.DuckDBPyConnection, source: Source, files: Any, path: str
) -> Iterator[Rows | Rejected]:
    _refuse_byte_order_mark(source, files, path)
    structure = _json_structure(connection, source.location)
    metadata = {name: structure[name] for name in _metadata_columns(source, list(structure))}
    own = (source.id_column, source.title_column, source.text_column)
    paths = ['$."' + name.replace('"', '\\"') + '"' for name in own]
    columns = "json_type(json) AS kind, json ->> ? AS id, json ->> ? AS title, json ->> ? AS text"
    parameters = [*paths, source.location]
    if metadata:
        columns += ", json_transform(json, ?) AS metadata"
        parameters.insert(len(paths), json.dumps(metadata))
    row = 1
    relation = connection.sql(f"SELECT {columns} {_OBJECTS}", params=parameters)
    if metadata:
        relation = relation.project(
            f"kind, id, title, text, {_settled('metadata', relation.types[-1], _MIXED)} AS metadata"
        )
    for table in _tables(connection, relation):
        numbers = np.arange(row, row + table.num_rows)
        readable = np.array([kind == _OBJECT for kind in table["kind"].to_pylist()], bool)
        for number in numbers[~readable]:
            yield Rejected(source.location, int(number), None, "not valid JSON, or no object")
        yield Rows(numbers[readable], table.drop_columns(["kind"]).filter(pa.array(readable)))
        row += table.num_rows


def _settled(value: str, kind: DuckDBPyType, settled: Mapping[str, str]) -> str:
    """SQL for a value in which all of some types, however deep, is as `settled` says: SQL by type, {} for the value."""
    if str(kind) in settled:
        return settled[str(kind)].format(value)
    if not set(_types_within(kind)) & set(settled):
        return value
    parts = {name: part for name, part in kind.children if isinstance(part, DuckDBPyType)}
    match kind.id:
        case "struct":
            each = {
                name: _settled(f"struct_extract({value}, {_text(name)})", part, settled) for name, part in parts.items()
            }
            made = f"struct_pack({', '.join(f'{_quoted(name)} := {part}' for name, part in each.items())})"
        case "map":
            keys, values = (_settled_list(f"map_{of}s({value})", parts[of], settled) for of in ("key", "value"))
            made = f"map({keys}, {values})"
        case _:
            return _settled_list(value, parts["child"], settled)
    return f"CASE WHEN {value} IS NOT NULL THEN {made} END"


def _settled_list(value: str, kind: DuckDBPyType, settled: Mapping[str, str]) -> str:
    return f"list_transform({value}, lambda one: {_settled('one', kind, settled)})"


def _types_within(kind: DuckDBPyType) -> Iterator[str]:
    """The names of the types that a type is made of, without those that have parts themselves."""
    if kind.id not in _NESTED:
        yield str(kind)
        return
    for _, part in kind.children:
        if isinstance(part, DuckDBPyType):  # or else the length of an array
            yield from _types_within(part)


def _json_structure(connection: duckdb.DuckDBPyConnection, location: str) -> dict[str, Any]:
    """The fields of all objects of the file with their types, as DuckDB's json_transform takes them."""
    query = f"SELECT json_group_structure(json) {_OBJECTS} WHERE json_type(json) = '{_OBJECT}'"
    ((found,),) = connection.sql(query, params=[location]).fetchall()
    structure = json.loads(found) if found else {}
    return structure if isinstance(structure, dict) else {}


def _refuse_byte_order_mark(source: Source, files: Any, path: str) -> None:
    if not files.isfile(path):
        return  # a pattern; its first row is set aside
    with files.open(path, "rb") as file:
        if file.read(3) == b"\xef\xbb\xbf":
            raise SourceError(f"{source.location}: begins with a byte order mark, which JSON forbids: save it without.")


def _csv_relation(
    connection: duckdb.DuckDBPyConnection, source: Source, delimiter: str, files: Any, path: str
) -> duckdb.DuckDBPyRelation:
    """CSV as RFC 4180 has it, metadata typed over the whole file; all text where broken rows hide the types."""
    values = [source.location, delimiter]
    names = _csv_header(source.location, files, path, delimiter)
    own = [name for name in (source.id_column, source.title_column, source.text_column) if name in names]
    try:
        types = f"sample_size=-1{', types=?' if own else ''}"
        typed = [dict.fromkeys(own, "VARCHAR")] if own else []
        return connection.sql(_CSV.format(types=types), params=[*values, *typed])
    except duckdb.InvalidInputException:
        columns = dict.fromkeys(names, "VARCHAR")
        return connection.sql(_CSV.format(types="auto_detect=false, columns=?"), params=[*values, columns])


def _csv_header(location: str, files: Any, path: str, delimiter: str) -> list[str]:
    first = path if files.isfile(path) else min(files.glob(path), default=None)
    if first is None:
        raise SourceError(f"{location}: no file matches this pattern.")
    with files.open(first, "rt", encoding="utf-8-sig", errors="replace", newline="") as file:
        return next(csv.reader(file, delimiter=delimiter), [])


def _csv_rejects(connection: duckdb.DuckDBPyConnection) -> Iterator[Rejected]:
    """Lines that are no rows, file by file. Raises SourceError at a quote without an end: it may swallow the rest."""
    for file, line, unquoted, message in connection.execute(_CSV_REJECTS).fetchall():
        if unquoted:
            raise SourceError(
                f"{file}: line {line}: expected the end of the value that a quote begins there, got text after a "
                "closing quote or the end of the file; rows after it may be lost. Put values with quotes in quotes "
                "and double those within."
            )
        yield Rejected(file, None, None, f"line {line} is not valid CSV: {message}")


def _metadata_columns(source: Source, names: Sequence[str]) -> list[str]:
    """Names of the metadata columns. Raises SourceError when id or text is missing."""
    for option, name in (("id", source.id_column), ("text", source.text_column)):
        if name not in names:
            raise SourceError(
                f"{source.location}: there is no column {name!r} for the document's {option}; "
                f"it has {', '.join(map(repr, names)) or 'none'}. Name the right one with --{option}-column."
            )
    return [name for name in names if name not in (source.id_column, source.text_column, source.title_column)]


def _quoted(name: str) -> str:
    """A column name as SQL takes it."""
    return '"' + name.replace('"', '""') + '"'


def _text(value: str) -> str:
    """A text as SQL takes it."""
    return "'" + value.replace("'", "''") + "'"

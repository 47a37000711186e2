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
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_JSON = (".jsonl", ".ndjson")
SUFFIXES = (".parquet", *_DELIMITERS, *_JSON)
_CSV = "FROM read_csv(?, delim=?, quote='\"', escape='\"', header=true, store_rejects=true, {types})"
_OBJECTS = "FROM read_ndjson_objects(?, ignore_errors=true)"
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
        if source.location.startswith("s3://"):
            # DuckDB reads buckets through s3fs: its own extension would have to be downloaded.
            connection.register_filesystem(files)
        try:
            if suffix in _JSON:
                yield from _read_json(connection, source, files, path)
            elif suffix in _DELIMITERS:
                yield from _read_relation(_csv_relation(connection, source, _DELIMITERS[suffix], files, path), source)
                yield from _csv_rejects(connection, source)
            else:
                yield from _read_relation(connection.sql("FROM read_parquet(?)", params=[source.location]), source)
        except (duckdb.Error, pa.ArrowException, OSError, UnicodeDecodeError) as error:
            first_line = str(error).strip().splitlines()[0]
            raise SourceError(f"{source.location}: cannot be read: {first_line}") from error


def _read_relation(relation: duckdb.DuckDBPyRelation, source: Source) -> Iterator[Rows]:
    metadata = _metadata_columns(source, relation.columns)
    kinds = dict(zip(relation.columns, relation.types, strict=True))
    for name in metadata:
        if "BLOB" in _types_within(kinds[name]):
            held = "is" if str(kinds[name]) == "BLOB" else "holds what is"
            raise SourceError(f"{source.location}: column {name!r} {held} binary and cannot be metadata: leave it out.")
    title = _quoted(source.title_column) if source.title_column in relation.columns else "NULL"
    columns = {"id": _quoted(source.id_column), "title": title, "text": _quoted(source.text_column)}
    wanted = [f"CAST({column} AS VARCHAR) AS {name}" for name, column in columns.items()]
    if metadata:
        each = {_quoted(name): _settled(_quoted(name), kinds[name], _FINE_TIMES) for name in metadata}
        wanted.append(f"struct_pack({', '.join(f'{name} := {value}' for name, value in each.items())}) AS metadata")
    row = 1
    for batch in relation.project(", ".join(wanted)).to_arrow_reader(BATCH_ROWS):
        yield Rows(np.arange(row, row + batch.num_rows), pa.Table.from_batches([batch]))
        row += batch.num_rows


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
    for batch in relation.to_arrow_reader(BATCH_ROWS):
        table = pa.Table.from_batches([batch])
        numbers = np.arange(row, row + batch.num_rows)
        readable = np.array([kind == _OBJECT for kind in table["kind"].to_pylist()], bool)
        for number in numbers[~readable]:
            yield Rejected(source.location, int(number), None, "not valid JSON, or no object")
        yield Rows(numbers[readable], table.drop_columns(["kind"]).filter(pa.array(readable)))
        row += batch.num_rows


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
    names = _csv_header(files, path, delimiter)
    own = [name for name in (source.id_column, source.title_column, source.text_column) if name in names]
    try:
        types = f"sample_size=-1{', types=?' if own else ''}"
        typed = [dict.fromkeys(own, "VARCHAR")] if own else []
        return connection.sql(_CSV.format(types=types), params=[*values, *typed])
    except duckdb.InvalidInputException:
        columns = dict.fromkeys(names, "VARCHAR")
        return connection.sql(_CSV.format(types="auto_detect=false, columns=?"), params=[*values, columns])


def _csv_header(files: Any, path: str, delimiter: str) -> list[str]:
    first = next(iter(sorted(files.glob(path)))) if not files.isfile(path) else path
    with files.open(first, "rt", encoding="utf-8-sig", errors="replace", newline="") as file:
        return next(csv.reader(file, delimiter=delimiter), [])


def _csv_rejects(connection: duckdb.DuckDBPyConnection, source: Source) -> Iterator[Rejected]:
    found = connection.execute("SELECT line, first(error_message) FROM reject_errors GROUP BY line ORDER BY line")
    for line, message in found.fetchall():
        yield Rejected(source.location, None, None, f"line {line} is not valid CSV: {message}")


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

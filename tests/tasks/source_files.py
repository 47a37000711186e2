"""Files of every format that documents come in, written where a test wants them, and read as the flows do."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import s3fs

from tasks.rows import Rejected, Source
from tasks.sources import read_rows

Row = dict[str, object]
ROWS: list[Row] = [
    {"id": "a", "title": "Bees", "text": "Bees make honey.", "year": 2001},
    {"id": "b", "title": None, "text": 'They said "hello", twice.', "year": None},
    {"id": "é/1", "title": "Zwei", "text": "Zwei\nZeilen 😀", "year": 1999},
]
EXPECTED = [{key: row[key] for key in ("id", "title", "text")} | {"metadata": {"year": row["year"]}} for row in ROWS]


def _json_lines(rows: list[Row]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _parquet(rows: list[Row]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


def _delimited(delimiter: str) -> Callable[[list[Row]], bytes]:
    def write(rows: list[Row]) -> bytes:
        values = [list(rows[0]), *([row[key] for key in row] for row in rows)]
        quoted = [["" if one is None else '"' + str(one).replace('"', '""') + '"' for one in line] for line in values]
        return "".join(delimiter.join(line) + "\n" for line in quoted).encode()

    return write


FORMATS: dict[str, Callable[[list[Row]], bytes]] = {
    "parquet": _parquet,
    "csv": _delimited(","),
    "tsv": _delimited("\t"),
    "jsonl": _json_lines,
    "ndjson": _json_lines,
}


def put(place: str, name: str, data: bytes) -> str:
    """Write a file as another program would, and return its location."""
    location = f"{place}/{name}"
    if location.startswith("s3://"):
        s3fs.S3FileSystem(skip_instance_cache=True).pipe_file(location, data)
    else:
        Path(location).parent.mkdir(parents=True, exist_ok=True)
        Path(location).write_bytes(data)
    return location


def read(location: str, **columns: str) -> tuple[list[Row], list[Rejected]]:
    """All rows of a source, and all that were set aside."""
    rows: list[Row] = []
    rejected: list[Rejected] = []
    for one in read_rows(Source(location=location, **columns)):
        if isinstance(one, Rejected):
            rejected.append(one)
        else:
            assert len(one.numbers) == one.table.num_rows
            rows += one.table.to_pylist()
    return rows, rejected

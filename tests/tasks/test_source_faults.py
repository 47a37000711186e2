"""What is wrong with a source: rows that are set aside with their reason, and sources that are refused."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from index_format.errors import SourceError
from tasks.rows import Rejected, Rows, Source
from tasks.sources import read_rows
from tasks.tables import ROW_BYTES
from tests.tasks.source_files import FORMATS, ROWS, Row, put, read


def test_unreadable_json_lines_are_set_aside(place: str) -> None:
    """With their row numbers and a reason, while the rest is read under its own numbers."""
    content = b'{"id": "a", "text": "x"}\n{"id": "b", "te\n{"id": "c", "text": "\xff"}\nno\n{"id": "d", "text": "y"}\n'
    found = list(read_rows(Source(location=put(place, "rows.jsonl", content))))
    assert [(one.row, one.id, "not valid JSON" in one.reason) for one in found if isinstance(one, Rejected)] == [
        (2, None, True),
        (3, None, True),
        (4, None, True),
    ]
    kept = [one for one in found if isinstance(one, Rows)]
    assert np.concatenate([one.numbers for one in kept]).tolist() == [1, 5]
    assert [row["id"] for one in kept for row in one.table.to_pylist()] == ["a", "d"]


@pytest.mark.parametrize(("suffix", "delimiter"), [("csv", ","), ("tsv", "\t")])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_unreadable_csv_rows_are_set_aside(place: str, suffix: str, delimiter: str, mark: bytes) -> None:
    """With their line numbers and a reason, while the rest is read, with or without a byte order mark."""
    content = b"id,text,year\na,x,1\nb,y\nc,z,3,4\nd,caf\xe9,5\ne,w,6\n".replace(b",", delimiter.encode())
    rows, rejected = read(put(place, f"rows.{suffix}", mark + content))
    assert [row["id"] for row in rows] == ["a", "e"]
    assert [one.row for one in rejected] == [None] * 3
    assert [one.reason.partition(":")[0] for one in rejected] == [f"line {n} is not valid CSV" for n in (3, 4, 5)]
    assert "Columns: 3 Found: 2" in rejected[0].reason
    assert "utf-8" in rejected[2].reason


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_a_broken_row_deep_in_a_file_is_set_aside(tmp_path: Path, suffix: str) -> None:
    """The whole file is looked at, not its beginning only."""
    lines = FORMATS[suffix]([{"id": number, "text": f"text {number}"} for number in range(30_000)]).splitlines()
    lines[29_000] = b"{" if suffix == "jsonl" else b'"a","b","c","d"'
    rows, rejected = read(put(str(tmp_path), f"rows.{suffix}", b"\n".join(lines)))
    assert len(rows) == len(lines) - len(rejected) - (suffix == "csv")
    assert [one.row or one.reason.split()[1] for one in rejected] == [29_001 if suffix == "jsonl" else "29001"]


def test_a_byte_order_mark_before_json_lines_is_refused(tmp_path: Path) -> None:
    """JSON forbids it; to read on would lose the first row."""
    location = put(str(tmp_path), "rows.jsonl", b"\xef\xbb\xbf" + FORMATS["jsonl"](ROWS))
    with pytest.raises(SourceError, match="begins with a byte order mark"):
        read(location)


@pytest.mark.parametrize("line", [b"42", b"[1, 2]", b'"text"'])
def test_a_json_line_that_is_no_object_is_set_aside(tmp_path: Path, line: bytes) -> None:
    """It is valid JSON, but no row; the others are read."""
    content = b'{"id": "a", "text": "x"}\n' + line + b'\n{"id": "b", "text": "y"}\n'
    rows, rejected = read(put(str(tmp_path), "rows.jsonl", content))
    assert ([row["id"] for row in rows], [one.row for one in rejected]) == (["a", "b"], [2])


def test_row_numbers_of_a_csv_file_are_distinct(tmp_path: Path) -> None:
    """A number in a report stands for one row; a line that is no row has none, and its reason names the line."""
    location = put(str(tmp_path), "rows.csv", b"id,text\na,x\nb\nc,y\nd,z\n")
    found = list(read_rows(Source(location=location)))
    numbers = [number for one in found if isinstance(one, Rows) for number in one.numbers.tolist()]
    assert numbers == [1, 2, 3]
    assert [(one.row, one.reason[:7]) for one in found if isinstance(one, Rejected)] == [(None, "line 3 ")]


@pytest.mark.parametrize(("suffix", "delimiter"), [("csv", ","), ("tsv", "\t")])
@pytest.mark.parametrize("rows", [1000, 200_000])
@pytest.mark.parametrize("start", ['"Quoted start', '"Quoted" start'])
def test_a_quote_without_an_end_is_refused_with_its_line(
    tmp_path: Path, suffix: str, delimiter: str, rows: int, start: str
) -> None:
    """All rows after it would be one value, neither indexed nor counted."""
    lines = [f"{number}{delimiter}text of document {number}" for number in range(rows)]
    lines[10] = f"10{delimiter}{start}"
    location = put(str(tmp_path), f"rows.{suffix}", "\n".join([f"id{delimiter}text", *lines, ""]).encode())
    with pytest.raises(SourceError, match=rf"rows\.{suffix}: line 12: .* quote .* Put values with quotes in quotes"):
        read(location)


def test_broken_lines_of_a_pattern_are_set_aside_file_by_file(place: str) -> None:
    """Equal line numbers in two files are two rows."""
    files = [put(place, f"part-{number}.csv", b"id,text\na,x\nb,y,z\n") for number in (1, 2)]
    rows, rejected = read(f"{place}/part-*.csv")
    assert len(rows) == 2
    assert [(one.source, one.reason[:7]) for one in rejected] == [(file, "line 3 ") for file in files]


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_a_pattern_that_no_file_matches_is_refused(place: str, suffix: str) -> None:
    """The error names it."""
    with pytest.raises(SourceError, match=rf"none\*\.{suffix}: .*[Nn]o file"):
        read(f"{place}/none*.{suffix}")


def test_a_binary_column_is_refused_by_name(tmp_path: Path) -> None:
    """What HTTP cannot answer with is not taken as metadata."""
    table = pa.table({"id": ["a"], "text": ["x"], "raw": pa.array([b"\xff\xfe"], pa.binary())})
    pq.write_table(table, tmp_path / "rows.parquet")
    with pytest.raises(SourceError, match="column 'raw' is binary"):
        read(str(tmp_path / "rows.parquet"))


@pytest.mark.parametrize(
    "parts",
    [
        pa.array([[b"\xff"]], pa.list_(pa.binary())),
        pa.array([[b"\xff"]], pa.list_(pa.binary(1), 1)),
        pa.array([{"of": [{"part": b"\xff"}]}]),
        pa.array([[("a", b"\xff")]], pa.map_(pa.string(), pa.binary())),
    ],
)
def test_a_column_with_binary_within_is_refused_by_name(tmp_path: Path, parts: pa.Array) -> None:
    """In lists, structs and maps, as it is on its own."""
    pq.write_table(pa.table({"id": ["a"], "text": ["x"], "parts": parts}), tmp_path / "rows.parquet")
    with pytest.raises(SourceError, match="column 'parts' holds what is binary"):
        read(str(tmp_path / "rows.parquet"))


def test_a_csv_row_that_is_too_long_is_set_aside(tmp_path: Path) -> None:
    """With its line and the limit; the others are read."""
    content = b"id,text\na,x\nb," + b"word " * (ROW_BYTES // 5 + 1) + b"\nc,y\n"
    rows, rejected = read(put(str(tmp_path), "rows.csv", content))
    assert [row["id"] for row in rows] == ["a", "c"]
    assert [one.reason.partition(" exceeded")[0] for one in rejected] == [
        f"line 3 is not valid CSV: Maximum line size of {ROW_BYTES} bytes"
    ]


def test_bytes_that_are_no_text_are_set_aside(tmp_path: Path) -> None:
    """By the column that has them; bytes that are UTF-8 are the text that they spell."""
    columns = {
        "id": ["é/1".encode(), b"b", b"\xff", b"d", None],
        "title": [b"Gr\xc3\xbc\xc3\x9fe", None, None, b"\xfe", None],
        "text": ["Grüße\naus Köln".encode(), b"caf\xe9", b"x", b"x", b"x"],
    }
    pq.write_table(pa.table(columns, pa.schema(dict.fromkeys(columns, pa.binary()))), tmp_path / "rows.parquet")
    rows, rejected = read(str(tmp_path / "rows.parquet"))
    assert rows == [
        {"id": "é/1", "title": "Grüße", "text": "Grüße\naus Köln"},
        {"id": None, "title": None, "text": "x"},
    ]
    assert [(one.row, one.id, one.reason) for one in rejected] == [
        (2, "b", "the text is not UTF-8"),
        (3, None, "the id is not UTF-8"),
        (4, "d", "the title is not UTF-8"),
    ]


def test_a_file_whose_name_is_not_utf8_is_set_aside(tmp_path: Path) -> None:
    """No id can be made of it; the others are read."""
    (tmp_path / "b.txt").write_text("hi")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.txt")).write_text("hello")
    rows, rejected = read(str(tmp_path))
    assert [row["id"] for row in rows] == ["b.txt"]
    assert [(one.id, one.reason) for one in rejected] == [(None, r"the file name 'caf\udce9.txt' is not UTF-8")]


@pytest.mark.parametrize("name", ["nothing.parquet", "nothing.csv", "nothing", "no/such/folder"])
def test_a_missing_source_is_refused(place: str, name: str) -> None:
    """The error names it."""
    with pytest.raises(SourceError, match=f"{name}: there is no such file or folder"):
        read(f"{place}/{name}")


@pytest.mark.parametrize("name", ["a\0b", "a\0b.csv", "a\0*.parquet"])
def test_a_source_that_can_be_no_file_is_refused_by_name(place: str, name: str) -> None:
    """Also where it is a pattern, which is not looked for before it is read."""
    with pytest.raises(SourceError, match="it holds a NUL character") as caught:
        read(f"{place}/{name}")
    assert repr(f"{place}/{name}") in str(caught.value)


@pytest.mark.parametrize("name", ["rows.xlsx", "rows", "rows.csv.gz", "rows.json"])
def test_a_file_of_another_kind_is_refused(place: str, name: str) -> None:
    """The error lists the kinds that are read."""
    with pytest.raises(SourceError, match=r"expected a file ending in \.parquet, \.csv, .*, or a folder"):
        read(put(place, name, b"id,text\na,x\n"))


def test_a_folder_without_text_is_refused(place: str) -> None:
    """The error says what it looked for."""
    put(place, "docs/picture.png", b"\x89PNG")
    with pytest.raises(SourceError, match=r"the folder holds no \.md, \.markdown, \.txt file"):
        read(f"{place}/docs")


@pytest.mark.parametrize("location", ["nosuch://bucket/rows.csv", "s3://no-such-bucket-of-ours/rows.csv"])
def test_a_place_that_cannot_be_opened_is_refused(s3_address: str, location: str) -> None:
    """An unknown protocol and an unknown bucket."""
    with pytest.raises(SourceError, match=location):
        read(location)


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
@pytest.mark.parametrize("option", ["id", "text"])
def test_a_missing_column_is_named_with_its_option(tmp_path: Path, suffix: str, option: str) -> None:
    """The error lists the columns that there are, and the option that names another."""
    rows: list[Row] = [{("key" if name == option else name): "x" for name in ("id", "text")}]
    location = put(str(tmp_path), f"rows.{suffix}", FORMATS[suffix](rows))
    with pytest.raises(SourceError, match=rf"no column '{option}'.*'key'.*--{option}-column"):
        read(location)


@pytest.mark.parametrize("content", [b"not parquet", b"", b"PAR1" + bytes(100) + b"PAR1"])
def test_a_damaged_file_is_refused(place: str, content: bytes) -> None:
    """Nothing of it can be read; the error names it in one line."""
    with pytest.raises(SourceError, match=r"rows\.parquet: cannot be read: ") as caught:
        read(put(place, "rows.parquet", content))
    assert "\n" not in str(caught.value)

"""Documents in, from every kind of source: what is read, and how it is typed."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from index_format.errors import SourceError, StorageError
from tasks.questions import read_queries
from tasks.rows import Rows, Source
from tasks.sources import read_rows
from tasks.tables import BATCH_ROWS
from tests.tasks.source_files import EXPECTED, FORMATS, ROWS, Row, put, read


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_gives_the_same_documents(place: str, suffix: str) -> None:
    """From a disk and from a bucket: quotes, line breaks, emoji, missing titles and typed metadata."""
    assert read(put(place, f"rows.{suffix}", FORMATS[suffix](ROWS))) == (EXPECTED, [])


def test_a_folder_gives_one_document_for_each_text_file(place: str) -> None:
    """The path is the id, the first heading the title; other files and files that are not UTF-8 are not read."""
    put(place, "docs/guide.md", b"\n## The guide\n\nRead me.")
    put(place, "docs/deep/er/note.txt", "Ein Z\u00e4hler.".encode())
    put(place, "docs/LOUD.MARKDOWN", b"No heading.")
    put(place, "docs/picture.png", b"\x89PNG")
    put(place, "docs/latin.txt", b"caf\xe9")
    rows, rejected = read(f"{place}/docs")
    assert {row["id"]: (row["title"], row["text"]) for row in rows} == {
        "guide.md": ("The guide", "\n## The guide\n\nRead me."),
        "deep/er/note.txt": (None, "Ein Z\u00e4hler."),
        "LOUD.MARKDOWN": (None, "No heading."),
    }
    assert [one.id for one in rejected] == ["latin.txt"]
    assert "UTF-8" in rejected[0].reason


def test_a_folder_is_listed_anew_each_time(place: str) -> None:
    """What another program put there since the last reading is read."""
    put(place, "docs/a.md", b"First.")
    assert len(read(f"{place}/docs")[0]) == 1
    put(place, "docs/b.md", b"Second.")
    assert [row["id"] for row in read(f"{place}/docs")[0]] == ["a.md", "b.md"]


def test_a_file_that_was_missing_is_found_once_it_is_there(place: str) -> None:
    """A worker that lives long sees what came since."""
    put(place, "other.jsonl", FORMATS["jsonl"](ROWS))
    with pytest.raises(SourceError, match="no such file"):
        read(f"{place}/rows.jsonl")
    assert len(read(put(place, "rows.jsonl", FORMATS["jsonl"](ROWS)))[0]) == len(ROWS)


@pytest.mark.parametrize("reader", [read, read_queries])
def test_a_bucket_that_nobody_answers_for_is_the_stores_failure(
    reader: Callable[[str], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which a flow tries again, where a source that is not there is an error of the input; and so with questions."""
    settings = {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    for name, value in {**settings, "AWS_MAX_ATTEMPTS": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("s3fs.S3FileSystem.cachable", False)  # others in this process know a store that answers
    with pytest.raises(StorageError, match=r"s3://nowhere/rows\.jsonl: cannot be reached .*[Cc]onnect") as caught:
        reader("s3://nowhere/rows.jsonl")
    assert not caught.value.refused


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_a_pattern_reads_all_files_that_match(tmp_path: Path, suffix: str) -> None:
    """Rows are numbered through."""
    for name in ("part-1", "part-2", "other"):
        put(str(tmp_path), f"{name}.{suffix}", FORMATS[suffix]([{"id": name, "text": "x"}]))
    found = [one for one in read_rows(Source(location=f"{tmp_path}/part-*.{suffix}")) if isinstance(one, Rows)]
    assert np.concatenate([one.numbers for one in found]).tolist() == [1, 2]
    assert [row["id"] for one in found for row in one.table.to_pylist()] == ["part-1", "part-2"]


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ([1, -2], ["1", "-2"]),
        (pa.array([2**64 - 1, 0], pa.uint64()), ["18446744073709551615", "0"]),
        ([True, False], ["true", "false"]),
        ([date(2020, 2, 1), date(2021, 1, 1)], ["2020-02-01", "2021-01-01"]),
        ([b"a", b"b"], ["a", "b"]),
        (pa.array(["a", "b"]).dictionary_encode(), ["a", "b"]),
        (pa.array(["a", "b"], pa.large_string()), ["a", "b"]),
        (pa.nulls(2), [None, None]),
    ],
)
def test_ids_of_any_type_become_strings(tmp_path: Path, ids: object, expected: list[str | None]) -> None:
    """Integers, dates, categories: what a Parquet file has."""
    pq.write_table(pa.table({"id": ids, "text": ["x", "y"]}), tmp_path / "rows.parquet")
    assert [row["id"] for row in read(f"{tmp_path}/rows.parquet")[0]] == expected


def test_mixed_json_ids_become_strings_without_quotes(tmp_path: Path) -> None:
    """Strings, numbers, booleans and null in one column."""
    ids = ["007", 8, True, 1.5, None, 'with "quotes"']
    location = put(str(tmp_path), "rows.jsonl", FORMATS["jsonl"]([{"id": one, "text": "x"} for one in ids]))
    assert [row["id"] for row in read(location)[0]] == ["007", "8", "true", "1.5", None, 'with "quotes"']


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl"])
def test_leading_zeros_and_spaces_of_an_id_stay(tmp_path: Path, suffix: str) -> None:
    """007 is not 7."""
    rows: list[Row] = [{"id": "007", "text": " x "}, {"id": "012", "text": "NULL"}, {"id": "#a", "text": "NA"}]
    found, _ = read(put(str(tmp_path), f"rows.{suffix}", FORMATS[suffix](rows)))
    assert [(row["id"], row["text"]) for row in found] == [("007", " x "), ("012", "NULL"), ("#a", "NA")]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("rows.csv", b"id,text\n1.10,2.50\n2.0,3\n", [("1.10", "2.50"), ("2.0", "3")]),
        ("rows.csv", b"id,text\n1,True\n2,F\n", [("1", "True"), ("2", "F")]),
        ("rows.csv", b"id,text\n01/02/2024,x\n03/04/2024,y\n", [("01/02/2024", "x"), ("03/04/2024", "y")]),
        ("rows.jsonl", b'{"id": "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11", "text": "x"}\n', [
            ("A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11", "x")
        ]),
        ("rows.jsonl", b'{"id": 123456789012345678901234567890, "text": "x"}\n', [
            ("123456789012345678901234567890", "x")
        ]),
    ],
)  # fmt: skip
def test_ids_and_texts_are_read_as_they_are_written(
    tmp_path: Path, name: str, content: bytes, expected: list[tuple[str, str]]
) -> None:
    """What looks like a number, a truth, a date or a UUID is still text."""
    assert [(row["id"], row["text"]) for row in read(put(str(tmp_path), name, content))[0]] == expected


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path, suffix: str) -> None:
    """Spreadsheets write one."""
    rows, rejected = read(put(str(tmp_path), f"rows.{suffix}", b"\xef\xbb\xbf" + FORMATS[suffix](ROWS)))
    assert (rows, rejected) == (EXPECTED, [])


def test_a_byte_order_mark_hides_no_heading(tmp_path: Path) -> None:
    """It is no part of a text file either."""
    put(str(tmp_path), "a.md", b"\xef\xbb\xbf# Title\n\nText.")
    ((row,), _) = read(str(tmp_path))
    assert (row["title"], row["text"]) == ("Title", "# Title\n\nText.")


@pytest.mark.parametrize("suffix", FORMATS)
def test_columns_may_have_other_names(tmp_path: Path, suffix: str) -> None:
    """Id, text and title are taken from where the source says; `title` itself is then metadata."""
    rows: list[Row] = [{"Key no.": "a", "body": "x", "head": "Top", "title": "m"}]
    location = put(str(tmp_path), f"rows.{suffix}", FORMATS[suffix](rows))
    found, _ = read(location, id_column="Key no.", text_column="body", title_column="head")
    assert found == [{"id": "a", "title": "Top", "text": "x", "metadata": {"title": "m"}}]


def test_a_source_without_further_columns_has_no_metadata(tmp_path: Path) -> None:
    """Nor a title where there is none."""
    rows, _ = read(put(str(tmp_path), "rows.jsonl", b'{"id": "a", "text": "x"}\n'))
    assert rows == [{"id": "a", "title": None, "text": "x"}]


def test_metadata_keeps_its_types(tmp_path: Path) -> None:
    """Numbers, dates, lists and structs of a Parquet file."""
    metadata = {"n": [1], "x": [0.5], "day": [date(2020, 1, 2)], "tags": [["a", "b"]], "who": [{"name": "Ann"}]}
    pq.write_table(pa.table({"id": ["a"], "text": ["x"], **metadata}), tmp_path / "rows.parquet")
    ((row,), _) = read(f"{tmp_path}/rows.parquet")
    assert row["metadata"] == {name: values[0] for name, values in metadata.items()}


@pytest.mark.parametrize("zone", [None, "UTC"])
@pytest.mark.parametrize("year", [1950, 2023])
def test_what_a_time_has_below_microseconds_is_cut_off(tmp_path: Path, year: int, zone: str | None) -> None:
    """On its own and in whatever holds it: Python has no finer times. The end of a year stays in its year."""
    expected = datetime(year, 12, 31, 23, 59, 59, 999_999, UTC if zone else None)
    time = (
        pa.array([expected], pa.timestamp("us", zone)).cast(pa.timestamp("ns", zone)).cast(pa.int64())[0].as_py() + 999
    )
    kind = pa.timestamp("ns", zone)
    metadata = {
        "e'nd": pa.array([time], kind),
        "one": pa.array([[time, None]], pa.list_(kind)),
        "when": pa.array(
            [{"it's": [{"at": time}], "n": 1}],
            pa.struct([("it's", pa.list_(pa.struct([("at", kind)]))), ("n", pa.int8())]),
        ),
        "by": pa.array([[("a", time)]], pa.map_(pa.string(), kind)),
        "two": pa.array([[time, time]], pa.list_(kind, 2)),
        "hour": pa.array([24 * 60 * 60 * 10**9 - 1], pa.time64("ns")),
    }
    gone = {name: pa.nulls(1, values.type) for name, values in metadata.items()}
    tables = [pa.table({"id": [name], "text": ["x"], **one}) for name, one in (("a", metadata), ("b", gone))]
    pq.write_table(pa.concat_tables(tables), tmp_path / "rows.parquet")
    full, empty = (row["metadata"] for row in read(f"{tmp_path}/rows.parquet")[0])
    assert full == {
        "e'nd": expected,
        "one": [expected, None],
        "when": {"it's": [{"at": expected}], "n": 1},
        "by": [("a", expected)],
        "two": [expected, expected],
        "hour": expected.time(),
    }
    (rows,) = read_rows(Source(location=f"{tmp_path}/rows.parquet"))
    assert isinstance(rows, Rows)
    assert "[ns" not in str(rows.table.schema)
    assert empty == dict.fromkeys(metadata)


def test_json_metadata_of_several_kinds_is_text_without_quotes(tmp_path: Path) -> None:
    """A text stays what it is beside a number; what is no text is as JSON has it, and nothing stays nothing."""
    values = [1990, "c. 1990", "", 'so "called"', True, 1.5, None, [1, "x"], {"a": "x"}]
    location = put(
        str(tmp_path),
        "rows.jsonl",
        FORMATS["jsonl"]([{"id": n, "text": "x", "year": one} for n, one in enumerate(values)]),
    )
    expected = ["1990", "c. 1990", "", 'so "called"', "true", "1.5", None, '[1,"x"]', '{"a":"x"}']
    assert [row["metadata"] for row in read(location)[0]] == [{"year": one} for one in expected]


def test_texts_beside_numbers_within_json_lists_and_objects_have_no_quotes(tmp_path: Path) -> None:
    """Whatever the names of the fields; what is of one kind there keeps its type."""
    name = """it's "so" {}"""
    lines: list[Row] = [
        {"id": "a", "text": "x", "tags": ["a", 1, None], "who": {name: [{"born": 1815}], "alive": False}},
        {"id": "b", "text": "x", "tags": [], "who": {name: [{"born": "c. 1815"}, None], "alive": True}},
        {"id": "c", "text": "x"},
    ]
    assert [row["metadata"] for row in read(put(str(tmp_path), "rows.jsonl", FORMATS["jsonl"](lines)))[0]] == [
        {"tags": ["a", "1", None], "who": {name: [{"born": "1815"}], "alive": False}},
        {"tags": [], "who": {name: [{"born": "c. 1815"}, None], "alive": True}},
        {"tags": None, "who": None},
    ]


@pytest.mark.parametrize("suffix", FORMATS)
def test_texts_of_tens_of_megabytes_are_read_whole(tmp_path: Path, suffix: str) -> None:
    """In one line, between short ones."""
    lengths = [10_000_000, 3, 31_000_000, 20_000_000, 4]
    rows: list[Row] = [{"id": str(n), "text": ("words " * length)[:length]} for n, length in enumerate(lengths)]
    found, rejected = read(put(str(tmp_path), f"rows.{suffix}", FORMATS[suffix](rows)))
    assert [(row["id"], len(str(row["text"]))) for row in found] == [(str(n), one) for n, one in enumerate(lengths)]
    assert rejected == []


def test_a_batch_of_long_texts_comes_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As much as a column of text in Arrow can hold at once, here less; in order, and of the usual types."""
    monkeypatch.setattr("tasks.tables._TABLE_BYTES", 100_000)
    text, count = "word " * 1000, 90
    columns = {"id": list(map(str, range(count))), "text": [text] * count, "tags": [["a"]] * count}
    pq.write_table(pa.table(columns), tmp_path / "rows.parquet")
    parts = list(read_rows(Source(location=f"{tmp_path}/rows.parquet")))
    assert len(parts) > 4
    ids: list[str] = []
    for rows in parts:
        assert isinstance(rows, Rows)
        assert rows.table["text"].to_pylist() == [text] * rows.table.num_rows
        assert rows.table.schema.field("text").type == pa.string()
        assert rows.table.schema.field("metadata").type.field("tags").type.value_type == pa.string()
        ids += rows.table["id"].to_pylist()
    assert ids == columns["id"]


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
def test_a_long_file_streams_in_small_batches(tmp_path: Path, suffix: str) -> None:
    """Fifty thousand rows come in order, at most 1,024 at a time."""
    location = put(
        str(tmp_path), f"rows.{suffix}", FORMATS[suffix]([{"id": n, "text": f"text {n}"} for n in range(50_000)])
    )
    batches = [one for one in read_rows(Source(location=location)) if isinstance(one, Rows)]
    assert max(len(one.numbers) for one in batches) <= BATCH_ROWS == 1024
    assert np.array_equal(np.concatenate([one.numbers for one in batches]), np.arange(1, 50_001))
    ids = [one for batch in batches for one in batch.table["id"].to_pylist()]
    assert ids == [str(number) for number in range(50_000)]

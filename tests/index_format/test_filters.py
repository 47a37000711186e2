"""Filters: what they match, held against plain Python over dictionaries, and what they refuse."""

from __future__ import annotations

import json
import re
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from index_format.change import Origin, delete_matching
from index_format.errors import InputError
from index_format.filters import MAX_DEPTH, MAX_LEAVES, both, parse_filter
from index_format.index import Index
from index_format.store import MemoryStore
from tests.index_format.filter_cases import (
    TYPES,
    Row,
    filters,
    found,
    index_of,
    plainly_matches,
    rows,
    two_segments,
    write_rows,
)
from tests.strategies import live_texts, make_recipe, publish


@given(first=rows, second=rows, asked=st.lists(filters, min_size=1, max_size=12))
@example(first=[{}], second=[{"real": -0.0}], asked=[{"op": "in", "column": "real", "values": [0]}])
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_a_filter_matches_what_plain_python_says(
    tmp_path: Path, first: list[Row], second: list[Row], asked: list[Row]
) -> None:
    """Over two segments, one of which has all columns and the other only some; read back from JSON."""
    index, documents = two_segments(tmp_path, first, second)
    for one in asked:
        expected = [row["id"] for row in documents if plainly_matches(one, row)]
        assert found(index, json.dumps(one)) == expected, one


@pytest.mark.parametrize(
    ("type_", "values", "asked", "expected"),
    [
        (pa.timestamp("ns", "Europe/Paris"), [datetime(2026, 1, 1, tzinfo=UTC)], "2026-01-01T02:00:00+02:00", 1),
        (pa.timestamp("s"), [datetime(2026, 1, 1)], "2026-01-01", 1),
        (pa.date64(), [date(2026, 1, 1)], "2026-01-01", 1),
        (pa.decimal128(10, 2), [Decimal("1.50")], 1.5, 1),
        (pa.decimal128(10, 2), [Decimal("0.35"), Decimal("-0.35"), None], 0.35, 1),
        (pa.decimal256(60, 20), [Decimal("0.35")], 0.35, 1),
        (pa.float32(), [0.1], 0.1, 0),
        (pa.large_string(), ["copper"], "copper", 1),
    ],
)
def test_every_type_of_a_kind_is_compared(
    tmp_path: Path, type_: pa.DataType, values: list[object], asked: object, expected: int
) -> None:
    """Times without an offset are UTC; a single-precision tenth is not a tenth."""
    index = index_of(tmp_path, ([{"it": value} for value in values], pa.struct([("it", type_)])))
    assert len(found(index, {"op": "==", "column": "it", "value": asked})) == expected
    assert len(found(index, {"op": "in", "column": "it", "values": [asked]})) == expected


@pytest.mark.parametrize(
    ("given_filter", "told"),
    [
        ({"op": "==", "column": "yaer", "value": 1}, "there is no column 'yaer'. There is 'id', 'text'"),
        ({"op": "==", "column": "whole", "value": "1"}, "column 'whole' is int64: expected a number, got '1'"),
        ({"op": "==", "column": "whole", "value": True}, "expected a number, got True"),
        ({"op": "in", "column": "text", "values": ["a", 1]}, "column 'text' is string: expected text, got 1"),
        ({"op": "range", "column": "yes", "least": 0}, "expected true or false, got 0"),
        ({"op": ">", "column": "day", "value": "yesterday"}, "expected a date such as"),
        ({"op": ">", "column": "moment", "value": "noon"}, "expected a time such as"),
        ({"op": "prefix", "column": "whole", "value": "1"}, "a prefix is of text"),
        ({"op": "==", "column": "tags", "value": "a"}, "which can only be asked whether it is null"),
    ],
)
def test_a_filter_that_does_not_fit_the_columns_is_refused(tmp_path: Path, given_filter: Row, told: str) -> None:
    """The message names the column and what there is, however deep it stands."""
    index = index_of(tmp_path, ([{}], TYPES))
    with pytest.raises(InputError, match="filter: ") as refused:
        found(index, {"op": "not", "filter": {"op": "or", "filters": [given_filter]}})
    assert told in str(refused.value)


def test_a_time_that_a_column_cannot_hold_is_refused(tmp_path: Path) -> None:
    """Nanoseconds end in the year 2262."""
    index = index_of(tmp_path, ([{"it": None}], pa.struct([("it", pa.timestamp("ns"))])))
    with pytest.raises(InputError, match="cannot hold"):
        found(index, {"op": "<", "column": "it", "value": "9999-01-01"})


def test_a_column_of_two_kinds_is_refused_but_for_null(tmp_path: Path) -> None:
    """A number here and text there: no comparison means the same in both. Widths of numbers are one kind."""
    rows: list[Row] = [{"it": None}]
    number, text, wide = (pa.struct([("it", one)]) for one in (pa.int64(), pa.string(), pa.float64()))
    index = index_of(tmp_path, ([*rows, {"it": 1}], number), (rows, text))
    for value in (1, "1"):
        with pytest.raises(InputError, match="'it' is not of one kind: it is int64 and string"):
            found(index, {"op": "==", "column": "it", "value": value})
    assert len(found(index, {"op": "is_null", "column": "it"})) == 2
    same = index_of(
        tmp_path, ([{"it": 1}], number), ([{"it": 1.0}], wide), ([{"it": None}], pa.struct([("it", pa.null())]))
    )
    assert len(found(same, {"op": "==", "column": "it", "value": 1})) == 2


def test_a_metadata_column_named_id_does_not_hide_the_documents_own(tmp_path: Path) -> None:
    """`id` is always the document's."""
    index = Index(MemoryStore(), tmp_path)
    recipe = make_recipe(index)
    publish(index, recipe, write_rows(index, [{}], pa.struct([("id", pa.int64())]), recipe))
    assert found(index, {"op": "==", "column": "id", "value": "doc-0"}) == ["doc-0"]


def _nested(depth: int) -> object:
    one: object = {"op": "is_null", "column": "text"}
    for _ in range(depth - 1):
        one = {"op": "not", "filter": one}
    return one


_leaf = {"op": "is_null", "column": "text"}


@pytest.mark.parametrize(
    ("given_filter", "told"),
    [
        ("year = 1990", "expected JSON"),
        ("[" * 100_000, "expected JSON"),
        ('{"op": "==", "column": "whole", "value": 1e999}', "finite number"),
        ('{"op": "==", "column": "whole", "value": NaN}', "finite number"),
        ({"op": "==", "column": "whole", "value": 10**400}, "finite number"),
        ('{"op": "==", "column": "whole", "value": null}', "value"),
        ('{"op": "==", "column": "text", "value": "\\ud800"}', "lone surrogate"),
        ('{"op": "prefix", "column": "text", "value": "\\ud800"}', "lone surrogate"),
        ({"op": "like", "column": "text", "value": "%"}, "like"),
        ({"op": "==", "column": "text", "value": "a", "sql": "1=1"}, "sql"),
        ({"op": "range", "column": "whole"}, "least, most or both"),
        ({"op": "and", "filters": []}, "at least 1"),
        ({"op": "in", "column": "whole", "values": []}, "at least 1"),
        ({"op": "in", "column": "whole", "values": [0] * 10_001}, "at most 10000"),
        ({"op": "==", "column": "text", "value": "a" * 10_001}, "at most 10000 characters"),
        ({"op": "or", "filters": [{"op": "and", "filters": [_leaf] * 51}] * 2}, f"at most {MAX_LEAVES} comparisons"),
        (_nested(MAX_DEPTH + 1), f"at most {MAX_DEPTH} filters in one another"),
        (_nested(900), "filter"),
    ],
)
def test_what_is_no_filter_is_refused(given_filter: object, told: str) -> None:
    """Syntax, size and depth, before any column is looked at."""
    with pytest.raises(InputError, match="filter") as refused:
        parse_filter(given_filter)
    assert told in str(refused.value)


def test_two_filters_hold_together() -> None:
    """As one that holds where both do; nothing is no filter."""
    one, other = parse_filter({"op": "==", "column": "a", "value": 1}), parse_filter(_nested(MAX_DEPTH))
    joined = both(one, other)
    assert joined is not None
    assert joined.model_dump()["filters"] == (one.model_dump(), other.model_dump())
    assert (both(None, one), both(one, None), both(None, None)) == (one, one, None)


def test_documents_are_deleted_by_a_filter(tmp_path: Path) -> None:
    """One version, over all segments; only the live ones count, and a second time there is nothing to do."""
    types = pa.struct([("year", pa.int64())])
    index = index_of(
        tmp_path,
        ([{"id": "a", "year": 1990}, {"id": "b", "year": 2000}], types),
        ([{"id": "c", "year": 1980}], types),
        ([{"id": "d"}], None),
    )
    old = parse_filter({"op": "<", "column": "year", "value": 2000})
    published = index.change(lambda base: delete_matching(index, base, old, Origin("delete")))
    assert published is not None
    assert (published.version, published.commit.deleted) == (2, 2)
    assert set(live_texts(index)) == {"b", "d"}
    assert index.change(lambda base: delete_matching(index, base, old, Origin("delete"))) is None
    everything = parse_filter({"op": "not", "filter": old.model_dump()})
    published = index.change(lambda base: delete_matching(index, base, everything, Origin("delete")))
    assert published is not None
    assert (published.commit.deleted, published.documents) == (2, 0)


def test_every_filter_of_the_documentation_is_one(tmp_path: Path) -> None:
    """Each form of docs/filters.md is read, and fits the columns that the document speaks of."""
    text = (Path(__file__).parents[2] / "docs" / "filters.md").read_text(encoding="utf-8")
    forms = re.findall(r"^\| `(\{.*?\})` \|", text, flags=re.MULTILINE)
    forms += re.findall(r"--where '(\{.*\})'", text)
    forms += [json.dumps(json.loads(block)["filter"]) for block in re.findall(r"```json\n(.*?)```", text, re.DOTALL)]
    assert len(forms) == 10
    types = pa.struct([("legs", pa.int64()), ("home", pa.string()), ("wild", pa.bool_()), ("seen", pa.date32())])
    index = index_of(tmp_path, ([{"legs": 6, "home": "hive", "wild": True, "seen": date(2026, 3, 1)}], types))
    assert [len(found(index, form)) for form in forms] == [1, 1, 1, 0, 0, 1, 1, 1, 0, 1]

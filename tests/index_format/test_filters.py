"""Filters: what they match, held against plain Python over dictionaries, and what they refuse."""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from index_format import schema
from index_format.change import Origin, delete_matching
from index_format.errors import InputError
from index_format.filters import MAX_DEPTH, MAX_LEAVES, both, parse_filter
from index_format.index import Index
from index_format.segment import SegmentContent, SegmentReader, write_centroids, write_segment
from index_format.selection import filter_columns, matching_rows, refuse_misfit
from index_format.store import MemoryStore
from tests.strategies import content_hash, live_texts, make_recipe, publish, token_vectors

Row = dict[str, object]
TYPES = pa.struct(
    [
        ("text", pa.string()),
        ("whole", pa.int64()),
        ("small", pa.int8()),
        ("unsigned", pa.uint64()),
        ("real", pa.float64()),
        ("yes", pa.bool_()),
        ("day", pa.date32()),
        ("moment", pa.timestamp("us")),
        ("a.b c", pa.int32()),
        ("tags", pa.list_(pa.string())),
        ("nothing", pa.null()),
    ]
)


def _write(index: Index, rows: list[Row], types: pa.StructType | None, recipe=None):
    """A segment of one-word documents doc-0, doc-1, … with the given metadata."""
    recipe = recipe or make_recipe(index)
    count = len(rows)
    ids = [str(row.get("id", f"doc-{number}")) for number, row in enumerate(rows)]
    columns = {
        "id": ids,
        "content_hash": [content_hash(one) for one in ids],
        "title": [None] * count,
        "text": ["ember"] * count,
    }
    if types is not None:
        plain = [{name: value for name, value in row.items() if name != "id"} for row in rows]
        columns["metadata"] = pa.array(plain, types)
    codes, scales = recipe.codec.compress(np.concatenate([token_vectors("ember")] * count))
    passages = [{"document": row, "number": 0, "start": 0, "end": 5} for row in range(count)]
    content = SegmentContent(
        encoder=recipe.encoder.fingerprint,
        documents=pa.table(columns, schema=schema.documents_schema(types)),
        passages=pa.Table.from_pylist(passages, schema=schema.PASSAGES),
        offsets=np.arange(count + 1, dtype=np.uint32),
        codes=codes,
        scales=scales,
    )
    segment = write_segment(index.store, content)
    return segment.with_centroids(write_centroids(index.store, segment, index.files, recipe.codec, recipe.codebook))


def _index(cache: Path, *segments: tuple[list[Row], pa.StructType | None]) -> Index:
    index = Index(MemoryStore(), cache)
    recipe = make_recipe(index)
    named = [
        ([{"id": f"doc-{number}-{row}", **one} for row, one in enumerate(rows)], types)
        for number, (rows, types) in enumerate(segments)
    ]
    publish(index, recipe, *(_write(index, rows, types, recipe) for rows, types in named))
    return index


def _found(index: Index, given_filter: object) -> list[str]:
    """Ids of the documents that match, checked against the columns first."""
    matching = parse_filter(given_filter)
    segments: list[SegmentReader] = index.segments(index.current())
    refuse_misfit(matching, filter_columns(segments))
    return [
        segment.document_ids[int(row)].as_py()
        for segment in segments
        for row in np.flatnonzero(matching_rows(matching, segment))
    ]


_OPERATORS: dict[str, Callable[[object, object], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def _python(value: object, like: object) -> object:
    """A value of a filter as plain Python compares it with a document's."""
    if isinstance(like, datetime):
        return datetime.fromisoformat(str(value))
    return date.fromisoformat(str(value)) if isinstance(like, date) else value


def plainly_matches(one: Mapping[str, object], row: Mapping[str, object]) -> bool:
    """The meaning of a filter in plain Python."""
    match one["op"]:
        case "and":
            return all(plainly_matches(part, row) for part in one["filters"])
        case "or":
            return any(plainly_matches(part, row) for part in one["filters"])
        case "not":
            return not plainly_matches(one["filter"], row)
    value = row.get(one["column"])
    if one["op"] == "is_null":
        return value is None
    if value is None:
        return False
    match one["op"]:
        case "in":
            return any(value == _python(wanted, value) for wanted in one["values"])
        case "prefix":
            return value.startswith(one["value"])
        case "range":
            least, most = one.get("least"), one.get("most")
            return (least is None or _python(least, value) <= value) and (most is None or value <= _python(most, value))
        case op:
            return _OPERATORS[op](value, _python(one["value"], value))


_words = st.text(alphabet="abé😀", max_size=3)
_edges = [0, 1, -1, 127, 128, -129, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**63), -(2**63) - 1, 10**30]
_numbers = st.one_of(
    st.integers(-3, 3), st.sampled_from(_edges), st.sampled_from([0.5, -0.5, 2.0, 1e19, 127.5, -1e-300, 1e300])
)
_days = st.dates(date(2025, 12, 28), date(2026, 1, 3))
_moments = st.datetimes(datetime(2025, 12, 31, 23), datetime(2026, 1, 1, 1))
_stored = {
    "text": _words,
    "whole": st.one_of(st.integers(-3, 3), st.sampled_from([n for n in _edges if -(2**63) <= n < 2**63])),
    "small": st.sampled_from([-128, -1, 0, 1, 2, 127]),
    "unsigned": st.one_of(st.integers(0, 3), st.sampled_from([n for n in _edges if 0 <= n < 2**64])),
    "real": st.sampled_from([0.0, -0.0, 0.5, -0.5, 2.0, 1e19, 1e300, float("inf"), float("nan")]),
    "yes": st.booleans(),
    "day": _days,
    "moment": _moments,
    "a.b c": st.integers(-2, 2),
}
_asked = {
    "id": st.sampled_from(["doc-0", "doc-1", "doc-10", "doc", ""]),
    "text": _words,
    **dict.fromkeys(("whole", "small", "unsigned", "a.b c"), _numbers),
    "real": st.sampled_from([0, 1, 2, 0.5, -0.5, 1e19, 1e300, -1]),
    "yes": st.booleans(),
    "day": _days.map(date.isoformat),
    "moment": _moments.map(datetime.isoformat),
}
_rows = st.lists(st.fixed_dictionaries({}, optional=_stored), min_size=1, max_size=8)


@st.composite
def _leaves(draw: st.DrawFn) -> Row:
    name = draw(st.sampled_from(list(_asked)))
    values = _asked[name]
    forms = ["compare", "in", "range", "is_null"] + ["prefix"] * (name in ("id", "text"))
    match draw(st.sampled_from(forms)):
        case "compare":
            return {"op": draw(st.sampled_from(list(_OPERATORS))), "column": name, "value": draw(values)}
        case "in":
            return {"op": "in", "column": name, "values": draw(st.lists(values, min_size=1, max_size=4))}
        case "range":
            ends = draw(st.sampled_from([("least",), ("most",), ("least", "most")]))
            return {"op": "range", "column": name, **{end: draw(values) for end in ends}}
        case op:
            return {"op": op, "column": name} | ({"value": draw(values)} if op == "prefix" else {})


filters = st.recursive(
    _leaves(),
    lambda inner: st.one_of(
        st.builds(lambda parts: {"op": "and", "filters": parts}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(lambda parts: {"op": "or", "filters": parts}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(lambda part: {"op": "not", "filter": part}, inner),
    ),
    max_leaves=5,
)


@given(first=_rows, second=_rows, asked=st.lists(filters, min_size=1, max_size=12))
@example(first=[{}], second=[{"real": -0.0}], asked=[{"op": "in", "column": "real", "values": [0]}])
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_a_filter_matches_what_plain_python_says(
    tmp_path: Path, first: list[Row], second: list[Row], asked: list[Row]
) -> None:
    """Over two segments, one of which has all columns and the other only some; read back from JSON."""
    some = pa.struct([field for field in TYPES if field.name in ("whole", "text", "real")])
    second = [{name: value for name, value in row.items() if some.get_field_index(name) >= 0} for row in second]
    first = [{**row, "id": f"doc-{number}"} for number, row in enumerate(first)]
    second = [{**row, "id": f"more-{number}"} for number, row in enumerate(second)]
    index = _index(tmp_path, (first, TYPES), (second, some))
    for one in asked:
        expected = [row["id"] for row in first + second if plainly_matches(one, row)]
        assert _found(index, json.dumps(one)) == expected, one


@pytest.mark.parametrize(
    ("type_", "values", "asked", "expected"),
    [
        (pa.timestamp("ns", "Europe/Paris"), [datetime(2026, 1, 1, tzinfo=UTC)], "2026-01-01T02:00:00+02:00", 1),
        (pa.timestamp("s"), [datetime(2026, 1, 1)], "2026-01-01", 1),
        (pa.date64(), [date(2026, 1, 1)], "2026-01-01", 1),
        (pa.decimal128(10, 2), [Decimal("1.50")], 1.5, 1),
        (pa.float32(), [0.1], 0.1, 0),
        (pa.large_string(), ["copper"], "copper", 1),
    ],
)
def test_every_type_of_a_kind_is_compared(
    tmp_path: Path, type_: pa.DataType, values: list[object], asked: object, expected: int
) -> None:
    """Times without an offset are UTC; a single-precision tenth is not a tenth."""
    index = _index(tmp_path, ([{"it": value} for value in values], pa.struct([("it", type_)])))
    assert len(_found(index, {"op": "==", "column": "it", "value": asked})) == expected
    assert len(_found(index, {"op": "in", "column": "it", "values": [asked]})) == expected


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
    index = _index(tmp_path, ([{}], TYPES))
    with pytest.raises(InputError, match="filter: ") as refused:
        _found(index, {"op": "not", "filter": {"op": "or", "filters": [given_filter]}})
    assert told in str(refused.value)


def test_a_time_that_a_column_cannot_hold_is_refused(tmp_path: Path) -> None:
    """Nanoseconds end in the year 2262."""
    index = _index(tmp_path, ([{"it": None}], pa.struct([("it", pa.timestamp("ns"))])))
    with pytest.raises(InputError, match="cannot hold"):
        _found(index, {"op": "<", "column": "it", "value": "9999-01-01"})


def test_a_column_of_two_kinds_is_refused_but_for_null(tmp_path: Path) -> None:
    """A number here and text there: no comparison means the same in both. Widths of numbers are one kind."""
    rows: list[Row] = [{"it": None}]
    number, text, wide = (pa.struct([("it", one)]) for one in (pa.int64(), pa.string(), pa.float64()))
    index = _index(tmp_path, ([*rows, {"it": 1}], number), (rows, text))
    for value in (1, "1"):
        with pytest.raises(InputError, match="'it' is not of one kind: it is int64 and string"):
            _found(index, {"op": "==", "column": "it", "value": value})
    assert len(_found(index, {"op": "is_null", "column": "it"})) == 2
    same = _index(
        tmp_path, ([{"it": 1}], number), ([{"it": 1.0}], wide), ([{"it": None}], pa.struct([("it", pa.null())]))
    )
    assert len(_found(same, {"op": "==", "column": "it", "value": 1})) == 2


def test_a_metadata_column_named_id_does_not_hide_the_documents_own(tmp_path: Path) -> None:
    """`id` is always the document's."""
    index = Index(MemoryStore(), tmp_path)
    recipe = make_recipe(index)
    publish(index, recipe, _write(index, [{}], pa.struct([("id", pa.int64())]), recipe))
    assert _found(index, {"op": "==", "column": "id", "value": "doc-0"}) == ["doc-0"]


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
    index = _index(
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
    index = _index(tmp_path, ([{"legs": 6, "home": "hive", "wild": True, "seen": date(2026, 3, 1)}], types))
    assert [len(_found(index, form)) for form in forms] == [1, 1, 1, 0, 0, 1, 1, 1, 0, 1]

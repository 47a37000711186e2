"""Filters as Hypothesis draws them, what they mean in plain Python, and indexes to ask them of."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from datetime import date, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

from index_format import schema
from index_format.filters import parse_filter
from index_format.index import Index
from index_format.manifest import SegmentRecord
from index_format.segment import SegmentContent, SegmentReader, write_centroids, write_segment
from index_format.selection import filter_columns, matching_rows, refuse_misfit
from index_format.store import MemoryStore
from tests.strategies import Recipe, content_hash, make_recipe, publish, token_vectors

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


def write_rows(
    index: Index, rows: list[Row], types: pa.StructType | None, recipe: Recipe | None = None
) -> SegmentRecord:
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


def index_of(cache: Path, *segments: tuple[list[Row], pa.StructType | None]) -> Index:
    """An index in memory, a segment for each list of metadata."""
    index = Index(MemoryStore(), cache)
    recipe = make_recipe(index)
    named = [
        ([{"id": f"doc-{number}-{row}", **one} for row, one in enumerate(rows)], types)
        for number, (rows, types) in enumerate(segments)
    ]
    publish(index, recipe, *(write_rows(index, rows, types, recipe) for rows, types in named))
    return index


def two_segments(cache: Path, first: list[Row], second: list[Row]) -> tuple[Index, list[Row]]:
    """An index of two segments, of which one has all columns and the other some; and its documents as dictionaries."""
    some = pa.struct([field for field in TYPES if field.name in ("whole", "text", "real")])
    second = [{name: value for name, value in row.items() if some.get_field_index(name) >= 0} for row in second]
    first = [{**row, "id": f"doc-{number}"} for number, row in enumerate(first)]
    second = [{**row, "id": f"more-{number}"} for number, row in enumerate(second)]
    return index_of(cache, (first, TYPES), (second, some)), first + second


def found(index: Index, given_filter: object) -> list[str]:
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
rows = st.lists(st.fixed_dictionaries({}, optional=_stored), min_size=1, max_size=8)


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

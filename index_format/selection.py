"""Which documents of a segment match a filter, told by Arrow over the columns of documents.parquet.

A column may be absent in some segments, where it is null throughout. What segments have of it must be of one
kind: where one has numbers and another text, no comparison means the same in both, so none is made.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import lru_cache, reduce
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from index_format import schema
from index_format.errors import InputError
from index_format.filters import (
    And,
    Comparison,
    Expression,
    IsNull,
    Leaf,
    Membership,
    Not,
    Operator,
    Or,
    Prefix,
    Range,
    Value,
    leaves,
)
from index_format.segment import SegmentReader

Kind = Literal["text", "number", "boolean", "date", "time", "other"]
Mask = NDArray[np.bool_]
Operand = bool | int | float | str | date

_SPOKEN: dict[Kind, str] = {
    "text": "text",
    "number": "a number",
    "boolean": "true or false",
    "date": "a date such as '2026-11-22'",
    "time": "a time such as '2026-11-22T09:30:00'",
}
_COMPARE: dict[Operator, Callable[[pa.Array, pa.Scalar], pa.Array]] = {
    "==": pc.equal,
    "!=": pc.not_equal,
    "<": pc.less,
    "<=": pc.less_equal,
    ">": pc.greater,
    ">=": pc.greater_equal,
}


@dataclass(frozen=True, slots=True)
class Column:
    """A column that filters may name. kinds: what segments have of it, one unless they disagree; none if all null."""

    name: str
    kinds: tuple[Kind, ...]
    types: tuple[str, ...]


def filter_columns(segments: Iterable[SegmentReader]) -> dict[str, Column]:
    """The columns of an index by name: `id`, and those of the metadata as the segments have them."""
    types: dict[str, dict[pa.DataType, None]] = {schema.ID.name: {pa.string(): None}}
    for segment in segments:
        for field in segment.metadata_type:
            # A metadata column of that name cannot be told from the document's id, which is always there.
            if field.name != schema.ID.name:
                types.setdefault(field.name, {})[field.type] = None
    return {name: _column(name, list(found)) for name, found in types.items()}


def columns_within(segments: Iterable[SegmentReader], matching: Expression) -> dict[str, Column]:
    """`id`, and the columns in which live documents that match a filter have a value: nothing that others alone have.

    Of a nested type only its kind is told, since its fields may be others'. The filter must fit the columns.
    """
    types: dict[str, dict[str, pa.DataType]] = {}
    for segment in segments:
        rows = matching_rows(matching, segment) & ~segment.deleted_rows
        for field in segment.metadata_type if rows.any() else ():
            told = str(field.type).partition("<")[0]
            if field.name == schema.ID.name or told in types.get(field.name, {}):
                continue
            if (_mask(segment.metadata_column(field.name).is_valid()) & rows).any():
                types.setdefault(field.name, {})[told] = field.type
    found = {name: Column(name, tuple(dict.fromkeys(map(_kind, of.values()))), tuple(of)) for name, of in types.items()}
    return {schema.ID.name: _column(schema.ID.name, [pa.string()]), **found}


def _column(name: str, types: list[pa.DataType]) -> Column:
    known = [one for one in types if not pa.types.is_null(one)]
    return Column(name, tuple(dict.fromkeys(map(_kind, known))), tuple(map(str, known)))


def refuse_misfit(expression: Expression, columns: Mapping[str, Column]) -> None:
    """Raise InputError unless every column is there, of one kind, and compared with values of its kind."""
    for leaf in leaves(expression):
        column = columns.get(leaf.column)
        if column is None:
            raise InputError(f"filter: there is no column {leaf.column!r}. There is {', '.join(map(repr, columns))}.")
        if isinstance(leaf, IsNull) or not column.kinds:
            continue
        if len(column.kinds) > 1:
            raise InputError(
                f"filter: column {leaf.column!r} is not of one kind: it is {' and '.join(column.types)} in different "
                "segments. Add those documents again with one type, or ask only whether it is null."
            )
        (kind,) = column.kinds
        _refuse_other_kind(leaf, column, kind)


def _refuse_other_kind(leaf: Leaf, column: Column, kind: Kind) -> None:
    described = f"filter: column {leaf.column!r} is {' and '.join(column.types)}"
    if kind == "other":
        raise InputError(f"{described}, which can only be asked whether it is null.")
    if isinstance(leaf, Prefix) and kind != "text":
        raise InputError(f"{described}, and a prefix is of text.")
    for value in leaf.operands:
        try:
            _operand(kind, value)
        except ValueError:
            raise InputError(f"{described}: expected {_SPOKEN[kind]}, got {value!r}.") from None


def matching_rows(expression: Expression, segment: SegmentReader) -> Mask:
    """Which documents of a segment match, the deleted ones too: bool [documents].

    The expression must fit the columns of the index (`refuse_misfit`).
    """
    match expression:
        case And():
            return reduce(operator.and_, (matching_rows(part, segment) for part in expression.filters))
        case Or():
            return reduce(operator.or_, (matching_rows(part, segment) for part in expression.filters))
        case Not():
            return ~matching_rows(expression.filter, segment)
        case _:
            return _matches(expression, _read(segment, expression.column))


def _read(segment: SegmentReader, name: str) -> pa.Array:
    """A column by row: whole numbers as they are, all else in one type for each kind (times in one of two)."""
    values = segment.document_ids if name == schema.ID.name else segment.metadata_column(name)
    match _kind(values.type):
        case "text":
            return values.cast(pa.large_string())
        case "number" if not pa.types.is_integer(values.type):
            if pa.types.is_decimal(values.type):
                values = values.cast(pa.string())  # Arrow's own cast to a double is not the nearest one
            return pc.add(values.cast(pa.float64()), 0.0)  # which makes 0 of -0: is_in tells them apart
        case "date":
            return values.cast(pa.date32())
        case "time":  # in microseconds, as Python has them, unless that would lose some
            return values.cast(pa.timestamp("ns" if values.type.unit == "ns" else "us", tz="UTC"))
    return values


def _matches(leaf: Leaf, values: pa.Array) -> Mask:
    if isinstance(leaf, IsNull):
        return _mask(values.is_null())
    if pa.types.is_null(values.type):
        return np.zeros(len(values), bool)
    match leaf:
        case Comparison():
            return _compare(values, leaf.op, leaf.value)
        case Range():
            ends: list[tuple[Operator, Value | None]] = [(">=", leaf.least), ("<=", leaf.most)]
            return reduce(operator.and_, (_compare(values, op, end) for op, end in ends if end is not None))
        case Membership():
            return _mask(pc.is_in(values, value_set=_wanted(leaf.values, values.type)))
        case Prefix():
            return _mask(pc.starts_with(values, leaf.value))


@lru_cache(maxsize=8)  # the same for every segment, and it may be long
def _wanted(values: tuple[Value, ...], kind: pa.DataType) -> pa.Array:
    operands = [_operand(_kind(kind), value) for value in values]
    return _as_array([one for one in operands if _fits(kind, one)], kind)


def _compare(values: pa.Array, op: Operator, value: Value) -> Mask:
    operand = _operand(_kind(values.type), value)
    fits = _fits(values.type, operand)
    if not fits and isinstance(operand, int):  # all that the column can hold lies on one side of it
        return _mask(values.is_valid()) & (op in (("<", "<=", "!=") if operand > 0 else (">", ">=", "!=")))
    if not fits:  # a fraction, so below 2^53: doubles order it rightly among whole numbers
        values = values.cast(pa.float64(), safe=False)
    return _mask(_COMPARE[op](values, _as_array([operand], values.type)[0]))


def _fits(kind: pa.DataType, operand: Operand) -> bool:
    """Whether a column of whole numbers can hold a value; other columns can hold any of their kind."""
    if not pa.types.is_integer(kind):
        return True
    signed = pa.types.is_signed_integer(kind)
    least, most = -(signed << kind.bit_width - 1), (1 << kind.bit_width - signed) - 1
    return isinstance(operand, int) and least <= operand <= most


def _as_array(operands: list[Operand], kind: pa.DataType) -> pa.Array:
    if pa.types.is_floating(kind):
        operands = [float(one) + 0.0 for one in operands]  # type: ignore[arg-type]  # numbers, by _operand
    try:
        return pa.array(operands, kind)
    except (pa.ArrowInvalid, OverflowError) as error:
        raise InputError(f"filter: {kind} cannot hold one of {operands[:3]} ({error}).") from None


def _operand(kind: Kind, value: Value) -> Operand:
    """A value as columns of that kind are compared with. Raises ValueError for one of another kind."""
    match kind, value:
        case "boolean", bool():
            return value
        case "number", int() | float() if not isinstance(value, bool):
            return int(value) if value == int(value) else value
        case "text", str():
            return value
        case "date", str():
            return date.fromisoformat(value)
        case "time", str():
            time = datetime.fromisoformat(value)
            return time if time.tzinfo else time.replace(tzinfo=UTC)
    raise ValueError


def _mask(values: pa.Array) -> Mask:
    """Where it is true, and null is not."""
    # Not the array's to_numpy, which imports pandas for booleans.
    return np.asarray(np.from_dlpack(pc.fill_null(values, False).cast(pa.uint8()))).astype(bool)


def _kind(kind: pa.DataType) -> Kind:
    is_a = pa.types
    if is_a.is_string(kind) or is_a.is_large_string(kind) or is_a.is_string_view(kind):
        return "text"
    if is_a.is_integer(kind) or is_a.is_floating(kind) or is_a.is_decimal(kind):
        return "number"
    if is_a.is_boolean(kind):
        return "boolean"
    if is_a.is_date(kind):
        return "date"
    return "time" if is_a.is_timestamp(kind) else "other"

"""Filters: which documents a search may find, or a delete takes, as a typed JSON expression.

    {"op": "and", "filters": [
        {"op": ">=", "column": "year", "value": 1990},
        {"op": "not", "filter": {"op": "prefix", "column": "id", "value": "draft/"}}
    ]}

A column is one of the metadata, or `id`, which is always the document's own. Each leaf is true or false: a
document without a value in the column matches `is_null` alone, and `not` turns that around. What a filter means
for the columns of an index is decided in `selection.py`; nothing here becomes SQL.
"""

from __future__ import annotations

import json
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from index_format.errors import InputError

MAX_LEAVES = 100
MAX_DEPTH = 16
MAX_VALUES = 10_000
MAX_CHARACTERS = 10_000
_MOST = 1e300  # a float of 64 bits can hold it, and no column holds more


def _comparable(value: bool | int | float | str) -> bool | int | float | str:
    """A value that Arrow can take."""
    if isinstance(value, str):
        if len(value) > MAX_CHARACTERS:
            raise ValueError(f"expected at most {MAX_CHARACTERS} characters, got {len(value)}")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError("expected text, got a lone surrogate") from None
    elif not isinstance(value, bool) and not abs(value) <= _MOST:  # so that nothing is not a number, either
        raise ValueError(f"expected a finite number of at most {_MOST} in size")
    return value


Value = Annotated[StrictBool | StrictInt | StrictFloat | StrictStr, AfterValidator(_comparable)]
Name = Annotated[StrictStr, Field(min_length=1, max_length=1000), AfterValidator(_comparable)]
Operator = Literal["==", "!=", "<", "<=", ">", ">="]


class _Expression(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Comparison(_Expression):
    """The column's value, compared with another. Text is ordered by code points, dates and times are ISO 8601."""

    op: Operator
    column: Name
    value: Value

    @property
    def operands(self) -> tuple[Value, ...]:
        return (self.value,)


class Membership(_Expression):
    """The column's value is one of these."""

    op: Literal["in"]
    column: Name
    values: Annotated[tuple[Value, ...], Field(min_length=1, max_length=MAX_VALUES, fail_fast=True)]

    @property
    def operands(self) -> tuple[Value, ...]:
        return self.values


class Range(_Expression):
    """The column's value is at least `least` and at most `most`; one of them may be left out."""

    op: Literal["range"]
    column: Name
    least: Value | None = None
    most: Value | None = None

    @model_validator(mode="after")
    def _refuse_unbounded(self) -> Range:
        if self.least is None and self.most is None:
            raise ValueError("expected least, most or both")
        return self

    @property
    def operands(self) -> tuple[Value, ...]:
        return tuple(end for end in (self.least, self.most) if end is not None)


class Prefix(_Expression):
    """The column's text begins so."""

    op: Literal["prefix"]
    column: Name
    value: Annotated[StrictStr, AfterValidator(_comparable)]

    @property
    def operands(self) -> tuple[Value, ...]:
        return (self.value,)


class IsNull(_Expression):
    """The document has no value in the column."""

    op: Literal["is_null"]
    column: Name

    @property
    def operands(self) -> tuple[Value, ...]:
        return ()


class And(_Expression):
    """All of the filters hold."""

    op: Literal["and"]
    filters: Annotated[tuple[Expression, ...], Field(min_length=1, max_length=MAX_LEAVES, fail_fast=True)]


class Or(_Expression):
    """At least one of the filters holds."""

    op: Literal["or"]
    filters: Annotated[tuple[Expression, ...], Field(min_length=1, max_length=MAX_LEAVES, fail_fast=True)]


class Not(_Expression):
    """The filter does not hold."""

    op: Literal["not"]
    filter: Expression


Leaf = Comparison | Membership | Range | Prefix | IsNull
Expression = Annotated[Leaf | And | Or | Not, Field(discriminator="op")]


def leaves(expression: Expression) -> list[Leaf]:
    """The comparisons of an expression, from left to right."""
    match expression:
        case And() | Or():
            return [leaf for part in expression.filters for leaf in leaves(part)]
        case Not():
            return leaves(expression.filter)
        case _:
            return [expression]


def _depth(expression: Expression) -> int:
    match expression:
        case And() | Or():
            return 1 + max(map(_depth, expression.filters))
        case Not():
            return 1 + _depth(expression.filter)
        case _:
            return 1


def _refuse_large(expression: Expression) -> Expression:
    if _depth(expression) > MAX_DEPTH:
        raise ValueError(f"expected at most {MAX_DEPTH} filters in one another, got {_depth(expression)}")
    if len(leaves(expression)) > MAX_LEAVES:
        raise ValueError(f"expected at most {MAX_LEAVES} comparisons, got {len(leaves(expression))}")
    return expression


Filter = Annotated[Expression, AfterValidator(_refuse_large)]
"""What others take as a filter: an expression of bounded size."""

for _model in (And, Or, Not):
    _model.model_rebuild()
_filters: TypeAdapter[Filter] = TypeAdapter(Filter)


def parse_filter(given: str | object) -> Filter:
    """The filter of a JSON text, or of what such a text holds. Raises InputError."""
    if isinstance(given, str):
        text = given
        try:
            given = json.loads(text)
        except (ValueError, RecursionError) as error:
            example = '{"op": "==", "column": "year", "value": 1990}'
            raise InputError(f"filter: expected JSON such as {example}, got {text[:100]!r} ({error}).") from None
    try:
        return _filters.validate_python(given)
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, ['filter', *one['loc']]))}: {one['msg']}" for one in error.errors()]
        raise InputError(f"{'; '.join(faults)}. docs/filters.md has every form.") from None


def both(one: Filter | None, other: Filter | None) -> Filter | None:
    """The filter that holds where both do; None stands for no filter."""
    if one is None or other is None:
        return one or other
    return And(op="and", filters=(one, other))

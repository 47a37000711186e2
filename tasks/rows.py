"""What comes out of a source: rows, and rows that cannot be indexed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from index_format import schema


class Source(BaseModel):
    """Where documents come from and which columns they are in."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    location: str = Field(
        min_length=1,
        description="A .parquet, .csv, .tsv, .jsonl or .ndjson file, or a folder of .txt and .md; or s3://",
    )
    id_column: str = Field(default="id", description="Column with the id of each document")
    text_column: str = Field(default="text", description="Column with the text")
    title_column: str = Field(default="title", description="Column with the title, where there is one")


@dataclass(frozen=True, slots=True)
class Rejected:
    """A row that cannot be indexed, and why.

    `row` counts the rows of the source from 1; None for a line of CSV that is no row, which the reason names.
    """

    source: str
    row: int | None
    id: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class Rows:
    """Some rows of a source: their numbers, and a table of id, title, text and a struct of further columns."""

    numbers: NDArray[np.int64]
    table: pa.Table


def python_rows(table: pa.Table) -> Iterator[tuple[dict[str, Any], str | None]]:
    """Rows as Python has them; one with a date that it has not comes without metadata, and with the reason."""
    try:
        yield from [(row, None) for row in table.to_pylist()]
        return
    except OverflowError:
        pass
    for place in range(table.num_rows):
        one = table.slice(place, 1)
        try:
            yield one.to_pylist()[0], None
        except OverflowError:
            yield one.drop_columns([schema.METADATA]).to_pylist()[0], f"{_beyond(one)}, expected years from 1 to 9999"


def _beyond(row: pa.Table) -> str:
    """Which column of a row's metadata has a date or time that Python has not."""
    metadata = row[schema.METADATA].combine_chunks()
    for at, name in enumerate(metadata.type.names):
        try:
            metadata.field(at).to_pylist()
        except OverflowError:
            return f"column {name!r} has a date or time out of range"
    return "the metadata has a date or time out of range"

"""What comes out of a source: rows, and rows that cannot be indexed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field


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

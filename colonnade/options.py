"""Arguments and options that several commands share."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

SourceArgument = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="A .parquet, .csv, .tsv, .jsonl or .ndjson file, or a folder of .txt and .md files; local or s3://",
    ),
]
IndexArgument = Annotated[str, typer.Argument(metavar="INDEX", help="Directory of the index, or s3://bucket/prefix")]
IdColumn = Annotated[str, typer.Option(help="Column with the id of each document")]
TextColumn = Annotated[str, typer.Option(help="Column with the text")]
TitleColumn = Annotated[str, typer.Option(help="Column with the title, if there is one")]
Encoder = Annotated[
    str | None,
    typer.Option(
        help="'embedded' (all-MiniLM-L6-v2, no network), a folder with a model, s3://bucket/prefix, or owner/name on "
        "the Hugging Face hub",
        show_default="the index's own; 'embedded' for a new one",
    ),
]
Where = Annotated[
    str | None,
    typer.Option(
        metavar="JSON",
        help='A filter over metadata and id, such as {"op": "<", "column": "year", "value": 1990}; '
        "docs/filters.md has all forms",
    ),
]
Recalled = Annotated[
    Literal["fast", "balanced", "exact"],
    typer.Option("--recall", help="'exact' scores every passage; the others stop when few can be missing"),
]
Hybrid = Annotated[
    Literal["rank", "weight"] | None,
    typer.Option(help="Rank by BM25 too: 'rank' adds reciprocal ranks, 'weight' the scores, each spread from 0 to 1"),
]
Weight = Annotated[float, typer.Option(min=0, max=1, help="The share of MaxSim in a hybrid search")]
DeviceOption = Annotated[
    Literal["auto", "cpu", "cuda"],
    typer.Option("--device", help="What encodes and scores; auto takes a GPU if torch and Triton can use one"),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout")]
ListRejected = Annotated[bool, typer.Option(help="List the rows that were set aside, with their reasons")]

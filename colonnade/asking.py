"""The commands that ask an index for more than hits: explain, batch-search, sql and export. They need no Prefect."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from colonnade.options import DeviceOption, Encoder, Hybrid, IndexArgument, Json, Recalled, Weight, Where

if TYPE_CHECKING:
    from colonnade.collection import Collection

Version = Annotated[int | None, typer.Option(help="A version", show_default="the current one")]


def explain(
    index: IndexArgument,
    query: Annotated[str, typer.Argument(metavar="QUERY", help="What to look for")],
    k: Annotated[int, typer.Option("-k", min=1, max=100, help="How many passages to explain")] = 3,
    recall: Recalled = "balanced",
    where: Where = None,
    encoder: Encoder = None,
    device: DeviceOption = "auto",
    as_json: Json = False,
) -> None:
    """Tell why the best passages are where they are: what each token of the query matched, and its weight.

    In Python: Collection(INDEX).explain(QUERY)
    """
    from colonnade import terminal
    from colonnade.collection import Collection

    matches = Collection(index, encoder=encoder, device=device).explain(query, k, where=where, recall=recall)
    rows = matches.to_dicts()
    if not as_json:
        rows = [{**row, "weight": f"{row['weight']:.3f}"} for row in rows]
        rows = [{name: value for name, value in row.items() if name != "spans"} for row in rows]
    terminal.print_rows(rows, as_json)


def batch_search(
    index: IndexArgument,
    queries: Annotated[
        str,
        typer.Argument(
            metavar="QUERIES",
            help="TREC topics, or a .parquet, .jsonl, .csv or .tsv file with an id and a text for each",
        ),
    ],
    k: Annotated[int, typer.Option("-k", min=1, max=1000, help="How many passages to return for each")] = 10,
    recall: Recalled = "balanced",
    where: Where = None,
    hybrid: Hybrid = None,
    weight: Weight = 0.5,
    encoder: Encoder = None,
    device: DeviceOption = "auto",
    as_json: Json = False,
) -> None:
    """Find the best passages for each of many queries, all from one version.

    In Python: Collection(INDEX).batch_search([QUERY, ...])
    """
    from colonnade import terminal
    from colonnade.collection import Collection
    from tasks.questions import read_queries

    asked = read_queries(queries)
    collection = Collection(index, encoder=encoder, device=device)
    answers = collection.batch_search(list(asked.values()), k, where=where, recall=recall, hybrid=hybrid, weight=weight)
    if as_json:
        told = zip(asked.items(), answers, strict=True)
        terminal.print_json(
            [{"id": id_, "query": text, "version": one.version, "hits": one.to_dicts()} for (id_, text), one in told]
        )
        return
    for (query_id, text), answer in zip(asked.items(), answers, strict=True):
        terminal.print_heading(f"{query_id}: {text}")
        terminal.print_hits(list(answer))


def sql(
    index: IndexArgument,
    statement: Annotated[str, typer.Argument(metavar="STATEMENT", help="One SELECT, in DuckDB's SQL")],
    version: Version = None,
    as_json: Json = False,
) -> None:
    """Ask in SQL over the tables documents, passages, segments and versions. Nothing else can be read, or written.

    documents: id, title, text, and metadata, such as metadata.year. passages: document_id, number, start, end, text.

    In Python: Collection(INDEX).sql(STATEMENT)
    """
    from colonnade import terminal
    from colonnade.collection import Collection

    terminal.print_rows(_at(Collection(index), version).sql(statement).to_pylist(), as_json)


def export(
    index: IndexArgument,
    path: Annotated[Path, typer.Argument(metavar="FILE", help="A .parquet, .jsonl or .ndjson file to write")],
    passages: Annotated[bool, typer.Option("--passages", help="A row for each passage instead")] = False,
    version: Version = None,
) -> None:
    """Write the documents of an index to a file, which `colonnade build` reads as it is: id, title, text, metadata.

    In Python: Collection(INDEX).export(FILE)
    """
    from colonnade import terminal
    from colonnade.collection import Collection

    count = _at(Collection(index), version).export(path, passages=passages)
    terminal.err.print(f"{path}: {count:,} rows", highlight=False, soft_wrap=True)


def _at(collection: Collection, version: int | None) -> Collection:
    return collection if version is None else collection.at(version)

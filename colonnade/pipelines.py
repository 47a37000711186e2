"""The commands that keep an index current and good: sync, reindex and eval. Each runs the flow of its name."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from colonnade.options import (
    Encoder,
    IdColumn,
    IndexArgument,
    Json,
    ListRejected,
    SourceArgument,
    TextColumn,
    TitleColumn,
)
from colonnade.running import prepare_prefect, refuse_missing, run_and_tell, run_flow, validated
from index_format.errors import InputError

Queries = Annotated[
    str | None, typer.Option(help="Queries: TREC topics, or .parquet, .jsonl, .csv, .tsv with an id and a text")
]
Judgements = Annotated[
    str | None,
    typer.Option(
        help="Relevance judgements: TREC qrels, or .parquet, .jsonl, .csv, .tsv with query, document and relevance"
    ),
]


def sync(
    source: SourceArgument,
    index: IndexArgument,
    most_deleted: Annotated[
        float, typer.Option(help="Share of the documents that may be missing from SOURCE; with more, nothing changes")
    ] = 0.2,
    id_column: IdColumn = "id",
    text_column: TextColumn = "text",
    title_column: TitleColumn = "title",
    encoder: Encoder = None,
    list_rejected: ListRejected = False,
    as_json: Json = False,
) -> None:
    """Make INDEX hold what SOURCE holds: add, change and delete exactly the difference, as one new version.

    In Python: flows.sync_index.sync_index(SyncParameters(...))
    """
    refuse_missing(source)
    prepare_prefect()
    from flows.parameters import SyncParameters
    from flows.sync_index import sync_index

    columns = {"id_column": id_column, "text_column": text_column, "title_column": title_column}
    settings = {"index": index, "encoder": encoder, "most_deleted": most_deleted}
    parameters = validated(SyncParameters, source={"location": source, **columns}, **settings)
    run_and_tell(lambda: sync_index(parameters), list_rejected, as_json)


def reindex(
    index: IndexArgument,
    encoder: Annotated[
        str | None,
        typer.Option(help="Encode all documents with this one, from the texts that INDEX holds", show_default=False),
    ] = None,
    bits: Annotated[int | None, typer.Option(help="Bits for each dimension: 1, 2, 4 or 8")] = None,
    passage_tokens: Annotated[int | None, typer.Option(help="Most tokens of a passage")] = None,
    overlap_tokens: Annotated[int | None, typer.Option(help="Tokens that neighbouring passages share")] = None,
    pool_factor: Annotated[int | None, typer.Option(help="Tokens of a passage that share a vector, about")] = None,
    queries: Queries = None,
    judgements: Judgements = None,
    tolerance: Annotated[
        float, typer.Option(help="How much worse answers may become, in nDCG@10, or in recall without queries")
    ] = 0.01,
    as_json: Json = False,
) -> None:
    """Make INDEX anew beside the one that is served, and put it in place at once; what is not named stays as it is.

    Without options the codebook alone is trained anew. The old version is kept. With queries, a version that
    answers them worse is not published; without, one that finds less, unless its encoder is another.
    Servers of the old encoder keep answering from the old version.

    In Python: flows.reindex_index.reindex_index(ReindexParameters(...))
    """
    prepare_prefect()
    from flows.parameters import ReindexParameters
    from flows.reindex_index import reindex_index

    cut = {"passage_tokens": passage_tokens, "overlap_tokens": overlap_tokens, "pool_factor": pool_factor}
    judged = _judged(queries, judgements)
    made = {"index": index, "encoder": encoder, "bits": bits, "judged": judged, "tolerance": tolerance}
    parameters = validated(ReindexParameters, **made, **cut)
    run_and_tell(lambda: reindex_index(parameters), False, as_json)


def evaluate(
    index: IndexArgument,
    queries: Queries = None,
    judgements: Judgements = None,
    version: Annotated[int | None, typer.Option(help="A version", show_default="the current one")] = None,
    beside: Annotated[int | None, typer.Option(help="Another version to compare it with")] = None,
    report: Annotated[
        Path | None, typer.Option(help="Write a page with the measures and what became of each query; needs queries")
    ] = None,
    encoder: Encoder = None,
    as_json: Json = False,
) -> None:
    """Measure what the answers of INDEX are worth: nDCG@10, Recall@100, MRR@100 and MAP@100.

    Beside them those of an exhaustive search, of BM25, of both together (`search --hybrid`), and of another version.

    Without queries, passages of INDEX stand for them, and only recall against an exhaustive search can be measured:
    with --beside, one over the finer of the two versions.

    In Python: flows.evaluate_index.evaluate_index(EvaluateParameters(...))
    """
    prepare_prefect()
    from colonnade import terminal
    from flows.evaluate_index import evaluate_index
    from flows.evaluation import measures_table
    from flows.parameters import EvaluateParameters
    from flows.report import write_report

    judged = _judged(queries, judgements)
    if report is not None and judged is None:
        raise InputError("--report tells of each question: name --queries and --judgements.")
    wanted = {"index": index, "judged": judged, "version": version, "beside": beside, "encoder": encoder}
    parameters = validated(EvaluateParameters, **wanted)
    done = run_flow(lambda: evaluate_index(parameters))
    if report is not None:
        write_report(report, done)
    if as_json:
        terminal.print_json({**asdict(done), "differences": done.differences})
        return
    terminal.print_rows(measures_table(done), False)
    if done.differences:
        terminal.print_rows(done.differences, False)
    terminal.print_drift(done.drift, done.warnings)


def _judged(queries: str | None, judgements: str | None) -> dict[str, str] | None:
    if (queries is None) != (judgements is None):
        raise InputError("--queries and --judgements go together: name both or none.")
    return {"queries": queries, "judgements": judgements} if queries and judgements else None

"""The command that makes an index of one that another package wrote."""

from __future__ import annotations

from typing import Annotated

import typer

from colonnade.options import IdColumn, IndexArgument, Json, ListRejected, TextColumn, TitleColumn
from colonnade.running import prepare_prefect, tell, validated


def import_command(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE", help="The folder of an index of ColBERT (PLAID), RAGatouille, fast-plaid or next-plaid"
        ),
    ],
    index: IndexArgument,
    texts: Annotated[
        str | None,
        typer.Option(
            help="A file with an id and a text for each passage of SOURCE, in their order, for one without texts: "
            ".parquet, .csv, .tsv or .jsonl, further columns as metadata; or ColBERT's own collection.tsv"
        ),
    ] = None,
    id_column: IdColumn = "id",
    text_column: TextColumn = "text",
    title_column: TitleColumn = "title",
    encoder: Annotated[
        str | None,
        typer.Option(
            help="The model that made the vectors of SOURCE: a folder, s3://bucket/prefix, owner/name on the Hugging "
            "Face hub, or 'embedded'",
            show_default="the one that SOURCE names",
        ),
    ] = None,
    bits: Annotated[int, typer.Option(help="Bits for each dimension of a token vector: 1, 2, 4 or 8")] = 4,
    list_rejected: ListRejected = False,
    as_json: Json = False,
) -> None:
    """Make a new index of one that another package wrote, from its vectors; no text is encoded again.

    Ids, texts and metadata come along. In Python: colonnade.importing.import_index.
    """
    prepare_prefect()  # its tasks are plain functions here, but they import it
    from colonnade import terminal
    from colonnade.importing import import_index
    from tasks.rows import Source

    columns = {"id_column": id_column, "text_column": text_column, "title_column": title_column}
    named = validated(Source, location=source, **columns)
    with terminal.progress_bars():
        summary = import_index(named, index, texts=texts, encoder=encoder, bits=bits)
    tell(summary, list_rejected, as_json)

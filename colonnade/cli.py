"""The command line. Heavy imports stay inside commands: `search`, and a `serve` that only reads, load no Prefect."""

from __future__ import annotations

import os
import resource
import sys
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from colonnade.asking import batch_search, explain, export, sql
from colonnade.import_command import import_command
from colonnade.keys import app as keys
from colonnade.options import (
    DeviceOption,
    Encoder,
    Hybrid,
    IdColumn,
    IndexArgument,
    Json,
    ListRejected,
    Recalled,
    SourceArgument,
    TextColumn,
    TitleColumn,
    Weight,
    Where,
)
from colonnade.pipelines import evaluate, reindex, sync
from colonnade.running import prepare_prefect, refuse_missing, run_and_tell, validated
from colonnade.serve import serve
from colonnade.upkeep import compact, gc, rollback, tag, versions
from index_format.errors import (
    ColonnadeError,
    CommitConflict,
    CommitUnknown,
    IndexCorrupt,
    InputError,
    ObjectMissing,
    StorageError,
)

OPEN_FILES = 65_536

EXIT_CODES = (
    "Exit codes: 0 done; 1 a fault in Colonnade; 2 wrong usage; 3 wrong input (source, encoder, directory, option); "
    "4 no index there, or it is damaged or too new; 5 the store failed or another writer was first, run again; "
    "130 interrupted. Whatever the code, a change is there whole or not at all."
)

app = typer.Typer(
    name="colonnade",
    help="Late-interaction search: build an index of documents, keep it, and answer from it.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def build(
    source: SourceArgument,
    index: IndexArgument,
    id_column: IdColumn = "id",
    text_column: TextColumn = "text",
    title_column: TitleColumn = "title",
    encoder: Encoder = None,
    bits: Annotated[
        int | None, typer.Option(help="Bits for each dimension of a token vector: 1, 2, 4 or 8", show_default="4")
    ] = None,
    passage_tokens: Annotated[
        int | None, typer.Option(help="Most tokens of a passage", show_default="what the encoder takes")
    ] = None,
    overlap_tokens: Annotated[
        int | None, typer.Option(help="Tokens that neighbouring passages share", show_default="0")
    ] = None,
    pool_factor: Annotated[
        int | None, typer.Option(help="Tokens of a passage that share a vector, about; 1 pools none", show_default="1")
    ] = None,
    list_rejected: ListRejected = False,
    as_json: Json = False,
) -> None:
    """Make an index from the documents of SOURCE. Run again, it adds what is new or changed.

    Bits and cut hold for the whole index: one that is there and has others refuses. `reindex` changes them.
    Every column beside id, text and title becomes metadata.

    In Python: Collection(INDEX).add(SOURCE)
    """
    refuse_missing(source)
    prepare_prefect()
    from flows.build_index import build_index
    from flows.parameters import BuildParameters

    settings = {"bits": bits, "passage_tokens": passage_tokens, "overlap_tokens": overlap_tokens}
    settings["pool_factor"] = pool_factor
    columns = {"id_column": id_column, "text_column": text_column, "title_column": title_column}
    parameters = validated(
        BuildParameters, source={"location": source, **columns}, index=index, encoder=encoder, **settings
    )
    run_and_tell(lambda: build_index(parameters), list_rejected, as_json)


def add(
    source: SourceArgument,
    index: IndexArgument,
    id_column: IdColumn = "id",
    text_column: TextColumn = "text",
    title_column: TitleColumn = "title",
    encoder: Encoder = None,
    list_rejected: ListRejected = False,
    as_json: Json = False,
) -> None:
    """Add the documents of SOURCE to an index that exists; an id that it holds gets the new content.

    In Python: Collection(INDEX).add(SOURCE)
    """
    refuse_missing(source)
    prepare_prefect()
    from flows.build_index import add_documents
    from flows.parameters import AddParameters

    columns = {"id_column": id_column, "text_column": text_column, "title_column": title_column}
    parameters = validated(AddParameters, source={"location": source, **columns}, index=index, encoder=encoder)
    run_and_tell(lambda: add_documents(parameters), list_rejected, as_json)


def delete(
    index: IndexArgument,
    ids: Annotated[list[str] | None, typer.Argument(metavar="ID", help="Ids of the documents to delete")] = None,
    ids_file: Annotated[
        typer.FileText | None, typer.Option(help="A file with one id a line; - reads standard input")
    ] = None,
    where: Where = None,
    as_json: Json = False,
) -> None:
    """Delete documents, by id or by a filter, as one new version.

    In Python: Collection(INDEX).delete([ID, ...]) or .delete(where=FILTER)
    """
    prepare_prefect()
    from flows.delete_documents import delete_documents
    from flows.parameters import DeleteParameters
    from index_format.filters import parse_filter

    try:
        wanted = [*(ids or []), *(line.strip() for line in (ids_file or []) if line.strip())]
    except UnicodeDecodeError as error:
        raise InputError(f"--ids-file: it is not UTF-8 ({error}). Expected one id a line.") from error
    if bool(wanted) == (where is not None):
        raise InputError(
            "Name the documents to delete: ids as arguments, --ids-file, or instead of ids a filter, --where."
        )
    chosen = None if where is None else parse_filter(where).model_dump(mode="json")
    parameters = validated(DeleteParameters, index=index, ids=wanted, filter=chosen)
    run_and_tell(lambda: delete_documents(parameters), False, as_json)


def search(
    index: IndexArgument,
    query: Annotated[str, typer.Argument(metavar="QUERY", help="What to look for")],
    k: Annotated[int, typer.Option("-k", min=1, max=1000, help="How many passages to return")] = 10,
    recall: Recalled = "balanced",
    where: Where = None,
    hybrid: Hybrid = None,
    weight: Weight = 0.5,
    encoder: Encoder = None,
    device: DeviceOption = "auto",
    as_json: Json = False,
) -> None:
    """Find the best passages for a query.

    In Python: Collection(INDEX).search(QUERY)
    """
    from colonnade import terminal
    from encoding.encoder import load_encoder_of
    from index_format.filters import parse_filter
    from index_format.index import Index
    from serving.device import choose_device, choose_encoder_device
    from serving.hybrid import Fusion
    from serving.query import SearchQuery
    from serving.searcher import Searcher

    if not query.strip():
        raise InputError("query: it is empty.")
    matching = None if where is None else parse_filter(where)
    place = Index.at(index)
    chosen = choose_device(device)
    loaded = load_encoder_of(place.current().encoder, encoder, choose_encoder_device(device))
    searcher = Searcher(place, loaded, chosen)
    fusion = None if hybrid is None else Fusion(hybrid, weight)
    answer = searcher.search(SearchQuery(query, k=k, recall=recall, matching=matching, fusion=fusion))
    if as_json:
        terminal.print_json(asdict(answer))
    else:
        terminal.print_hits(answer.hits)


def inspect(
    index: IndexArgument,
    version: Annotated[int | None, typer.Option(help="A version", show_default="the current one")] = None,
    rejected: Annotated[bool, typer.Option(help="List the rows that were set aside when the version was made")] = False,
    as_json: Json = False,
) -> None:
    """Tell what a version of an index holds: documents, bytes by file, encoder.

    In Python: Collection(INDEX).inspect()
    """
    from colonnade import inspection, terminal
    from index_format.index import Index
    from index_format.reports import read_report

    place = Index.at(index)
    manifest = place.current() if version is None else place.version(version)
    if rejected:
        terminal.print_rows(read_report(place.files, manifest.commit.rejected_file), as_json)
    elif as_json:
        terminal.print_json(inspection.describe(manifest, place.address))
    else:
        terminal.print_description(inspection.describe(manifest, place.address))


def verify(
    index: IndexArgument,
    version: Annotated[int | None, typer.Option(help="A version", show_default="the current one")] = None,
    all_versions: Annotated[bool, typer.Option("--all", help="Check every retained version")] = False,
    as_json: Json = False,
) -> None:
    """Read all of an index and check every rule of the format; each fault with its file, row and repair.

    Exit code 4 when there are faults.

    In Python: Collection(INDEX).verify()
    """
    from colonnade import terminal
    from index_format.store import open_store
    from index_format.verify import verify as find_faults
    from index_format.verify import wanted_versions

    store = open_store(index)
    wanted = wanted_versions(store, version, all_versions=all_versions)
    faults = [asdict(fault) for fault in terminal.counted(find_faults(store, wanted), "Checking")]
    terminal.print_rows(faults, as_json)
    if faults:
        raise IndexCorrupt(f"{store.address}: {len(faults)} faults.")


def doctor(
    store: Annotated[str, typer.Argument(metavar="STORE", help="A directory, or s3://bucket/prefix")],
    as_json: Json = False,
) -> None:
    """Test whether a directory or a bucket keeps the promises that an index needs; leaves nothing behind.

    Exit code 5 when it does not.

    In Python: index_format.doctor.examine(open_store(STORE))
    """
    from colonnade import terminal
    from index_format.doctor import examine
    from index_format.store import open_store

    place = open_store(store)
    findings = [asdict(finding) for finding in terminal.counted(examine(place), "Testing")]
    terminal.print_rows(findings, as_json)
    broken = [finding["promise"] for finding in findings if not finding["held"]]
    if broken:
        raise StorageError(f"{place.address} cannot hold an index: {len(broken)} of {len(findings)} promises broken.")


def demo(
    index: Annotated[Path, typer.Option(help="Where the demo keeps its index")] = Path(".demo/index"),
    documents: Annotated[int, typer.Option(min=100, help="How many docstrings to index, at most")] = 2100,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one")] = 8080,
) -> None:
    """Index the docstrings of this Python and its packages, answer a few questions, and serve them.

    In Python: colonnade.demo.run_demo(INDEX, DOCUMENTS, PORT)
    """
    prepare_prefect()
    from colonnade.demo import run_demo

    run_demo(index, documents, port)


# In the order in which somebody new needs them.
COMMANDS: dict[str, dict[str, Callable[..., None]]] = {
    "Begin": {"demo": demo, "build": build, "search": search, "serve": serve},
    "Documents": {
        "add": add,
        "delete": delete,
        "sync": sync,
        "reindex": reindex,
        "import": import_command,
        "export": export,
    },
    "Answers": {"batch-search": batch_search, "explain": explain, "sql": sql, "eval": evaluate},
    "Versions": {"inspect": inspect, "versions": versions, "rollback": rollback, "tag": tag},
    "Upkeep": {"compact": compact, "gc": gc, "verify": verify, "doctor": doctor},
}
for panel, commands in COMMANDS.items():
    for name, command in commands.items():
        app.command(name, rich_help_panel=panel)(command)
app.add_typer(keys, name="keys", rich_help_panel="Upkeep")


def main() -> None:
    """Run the command line; every expected error ends in one message and its exit code."""
    _allow_many_files()
    try:
        app()
    except Exception as error:
        if os.environ.get("COLONNADE_DEBUG"):
            raise
        message, code = _message_and_code(error)
        typer.echo(f"colonnade: {message}", err=True)
        _release(error)
        sys.exit(code)


def _allow_many_files() -> None:
    """A segment keeps three files open: the usual soft limit of 1,024 would end at some 300 segments."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < OPEN_FILES:
        wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _release(error: BaseException | None) -> None:
    """Let go of what the failed frames hold: DuckDB complains of connections that outlive the interpreter."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def _message_and_code(error: Exception) -> tuple[str, int]:
    match error:
        case InputError():
            return str(error), 3
        case ObjectMissing():  # collected under a slow reader or writer, or a version is damaged
            return f"{error} Run again; if it is still missing, restore it or rebuild.", 4
        case StorageError() | CommitConflict() | CommitUnknown():
            return str(error), 5
        case ColonnadeError():
            return str(error), 4
        case _:
            hint = "This is a fault in Colonnade: set COLONNADE_DEBUG=1 to see where, and report it."
            return f"{type(error).__name__}: {error}\n{hint}", 1

"""The commands that look after an index: its versions, its segments and its garbage. They need no Prefect."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Annotated

import typer

from colonnade.options import IndexArgument, Json


def versions(index: IndexArgument, as_json: Json = False) -> None:
    """List the versions that an index retains, newest first, with their tags and what made them.

    In Python: Collection(INDEX).versions()
    """
    from colonnade import inspection, terminal
    from index_format.index import Index

    terminal.print_rows(inspection.versions(Index.at(index)), as_json)


def compact(
    index: IndexArgument,
    alike: Annotated[int, typer.Option(min=2, help="How many segments of like size become one")] = 8,
    deleted_share: Annotated[
        float, typer.Option(min=0.01, max=1, help="Share of deleted passages from which a segment is rewritten")
    ] = 0.25,
    as_json: Json = False,
) -> None:
    """Join small segments and leave out deleted documents; every answer stays what it was.

    In Python: Collection(INDEX).compact()
    """
    from colonnade import terminal
    from index_format.compaction import CompactionPolicy, compact_index
    from index_format.index import Index

    done = compact_index(Index.at(index), CompactionPolicy(alike=alike, deleted_share=deleted_share))
    if as_json:
        terminal.print_json({"index": index, **asdict(done)})
    else:
        terminal.print_compaction(index, done)


def rollback(
    index: IndexArgument,
    version: Annotated[str, typer.Argument(metavar="VERSION", help="A retained version: its number, or a tag")],
    as_json: Json = False,
) -> None:
    """Publish the documents of an older version as a new one. Nothing is lost: what came between is retained.

    In Python: Collection(INDEX).rollback(VERSION)
    """
    from colonnade import terminal
    from index_format import history
    from index_format.change import Origin
    from index_format.index import Index

    place = Index.at(index)
    made = place.change(
        lambda base: history.rollback(place, base, history.find_version(place, base, version), Origin("rollback"))
    )
    terminal.print_version(index, made or place.current(), made is not None, as_json)


def tag(
    index: IndexArgument,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What to call the version")],
    version: Annotated[int | None, typer.Option(help="A retained version", show_default="the current one")] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Forget the name instead")] = False,
    as_json: Json = False,
) -> None:
    """Give a version a name; it is kept for as long as it has one.

    In Python: Collection(INDEX).tag(NAME)
    """
    from colonnade import terminal
    from index_format import history
    from index_format.change import Origin
    from index_format.index import Index

    place = Index.at(index)
    if remove:
        made = place.change(lambda base: history.untag(place, base, name, Origin("untag")))
    else:
        made = place.change(lambda base: history.tag(place, base, name, version or base.version, Origin("tag")))
    terminal.print_version(index, made or place.current(), made is not None, as_json)


def gc(
    index: IndexArgument,
    keep_versions: Annotated[int, typer.Option(min=1, help="How many versions to keep at least")] = 10,
    keep_days: Annotated[float, typer.Option(min=0, help="Keep what was current or written within so many days")] = 7.0,
    delete: Annotated[bool, typer.Option("--delete", help="Delete it; without, it is only listed")] = False,
    as_json: Json = False,
) -> None:
    """Find old versions and files that nothing needs any more, and with --delete remove them.

    Tagged versions are kept. A run that has been writing for longer than --keep-days has to start over.

    In Python: Collection(INDEX).collect_garbage()
    """
    from colonnade import terminal
    from index_format.garbage import collect_garbage, find_garbage
    from index_format.history import Retention
    from index_format.index import Index

    place, retention, now = Index.at(index), Retention(keep_versions, keep_days), time.time_ns() // 1_000_000
    found = collect_garbage(place, retention, now) if delete else find_garbage(place, place.current(), retention, now)
    if as_json:
        terminal.print_json({"index": index, "deleted": delete, "bytes": found.bytes, **asdict(found)})
    else:
        terminal.print_garbage(index, found, delete)

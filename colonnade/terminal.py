"""What people see: progress bars, summaries, hits. On a pipe the bars stay away; JSON goes to stdout alone.

What users wrote is printed as Text: in a plain string, brackets would be read as styles.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from index_format.manifest import Manifest
from serving.search import Hit
from tasks import progress

if TYPE_CHECKING:
    from flows.summary import Summary
    from index_format.compaction import Compacted
    from index_format.garbage import Garbage
    from tasks.drift import SegmentDrift

Item = TypeVar("Item")

_SHOWN_SEGMENTS = 8  # the newest

out = Console()
err = Console(stderr=True)

_TITLES: dict[progress.Stage, str] = {
    "load": "Reading documents",
    "import": "Importing vectors",
    "encode": "Encoding passages",
    "codebook": "Training codebook",
    "centroids": "Assigning centroids",
    "publish": "Publishing",
}


def print_json(value: Any) -> None:
    """One JSON document on stdout. What is not a finite number is null: JSON has no other word for it."""
    out.file.write(json.dumps(_finite(value), default=_plain, ensure_ascii=False, allow_nan=False) + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    return [_finite(one) for one in value] if isinstance(value, list | tuple) else value


def _plain(value: Any) -> Any:
    return msgspec.structs.asdict(value) if isinstance(value, msgspec.Struct) else str(value)


@contextmanager
def progress_bars() -> Iterator[threading.Event]:
    """Show a bar for each stage that this process works on. Setting the event stops the work at its next step."""
    columns = (TextColumn("{task.description:<20}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    bars: dict[str, TaskID] = {}
    stopping = threading.Event()
    with Progress(*columns, console=err, disable=not err.is_terminal) as display:

        def listener(step: progress.Step) -> None:
            if stopping.is_set():
                raise KeyboardInterrupt
            if step.stage not in bars:
                bars[step.stage] = display.add_task(_TITLES[step.stage], total=None)
            if step.total is not None:
                display.update(bars[step.stage], total=step.total)
            display.advance(bars[step.stage], step.advance)

        with progress.listening(listener):
            yield stopping


def counted(items: Iterable[Item], title: str) -> Iterator[Item]:
    """The same items, with a line that counts them as they come."""
    with Progress(
        TextColumn("{task.description}"), console=err, disable=not err.is_terminal, transient=True
    ) as display:
        line = display.add_task(title, total=None)
        for count, item in enumerate(items, start=1):
            display.update(line, description=f"{title}: {count}")
            yield item


def print_summary(summary: Summary) -> None:
    """A run's outcome for people."""
    outcome = f"version {summary.version} published" if summary.published else f"version {summary.version} is current"
    err.print(Text.assemble((summary.index, "bold"), f": {outcome}"), soft_wrap=True)
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(justify="right")
    table.add_column()
    counts = {
        "documents seen": summary.seen,
        "documents added": summary.added,
        "changed": summary.changed,
        "deleted": summary.deleted,
        "unchanged": summary.unchanged,
        "missing from the source, not deleted": summary.held_back,
        "set aside": summary.rejected,
        "passages": summary.passages,
        "tokens": summary.tokens,
    }
    for what, count in counts.items():
        if count:
            table.add_row(f"{count:,}", what)
    if summary.passages:
        table.add_row(f"{summary.bytes:,}", f"bytes, {summary.bytes / summary.passages:,.0f} a passage")
    err.print(table)
    if summary.seconds:
        rates = {stage: f" ({rate:,} tokens a second)" for stage, rate in summary.tokens_a_second.items()}
        stages = ", ".join(f"{stage} {took:.1f} s{rates.get(stage, '')}" for stage, took in summary.seconds.items())
        _say(f"  {stages}; {sum(summary.seconds.values()):.1f} s in all")
    print_drift(summary.drift, summary.warnings)


def print_drift(drift: Sequence[SegmentDrift], warnings: Sequence[str]) -> None:
    """The newest segments against their codebook, where any came after it; and what a person should look at."""
    if any(not one.own for one in drift):
        table = Table(box=None, pad_edge=False, title="Drift", title_justify="left")
        rows = [asdict(one) for one in drift[-_SHOWN_SEGMENTS:]]
        for name in rows[0]:
            table.add_column(name)
        for row in rows:
            # Of a segment's name the time alone, so that a line fits.
            table.add_row(*("" if value is None else Text(str(value)[:12]) for value in row.values()))
        err.print(table)
    for warning in warnings:
        err.print(Text.assemble(("Warning:", "bold yellow"), f" {warning}"), soft_wrap=True)


def print_version(index: str, manifest: Manifest, published: bool, as_json: bool) -> None:
    """The outcome of a change that is one commit."""
    if as_json:
        facts = {"version": manifest.version, "published": published, "documents": manifest.documents}
        print_json({"index": index, **facts, "tags": manifest.tags})
        return
    outcome = "published" if published else "is current, nothing changed"
    _say(f"{index}: version {manifest.version} {outcome}")


def print_compaction(index: str, done: Compacted) -> None:
    """What compaction did."""
    outcome = f"version {done.version}, {done.segments_before} segments before, {done.segments_after} now"
    later = f"; {done.discarded} groups changed meanwhile: run again" if done.discarded else ""
    _say(f"{index}: {outcome}{later}")


def print_garbage(index: str, found: Garbage, deleted: bool) -> None:
    """What nothing needs: each object with its bytes, then the sum."""
    for key, size in found.sizes.items():
        out.print(f"{size:>14,}  {key}", markup=False, highlight=False, soft_wrap=True)
    outcome = "deleted" if deleted else "would be deleted; --delete does it"
    sums = f"{len(found.sizes):,} objects, {len(found.versions)} of them versions, {found.bytes:,} bytes"
    _say(f"{index}: {sums} {outcome}")


def _say(sentence: str) -> None:
    err.print(sentence, markup=False, highlight=False, soft_wrap=True)


def print_heading(text: str) -> None:
    """What the lines below it belong to."""
    out.print(Text(f"\n{text}", style="bold"))


def print_hits(hits: list[Hit]) -> None:
    """Hits for people: rank, title, id, score and the passage."""
    if not hits:
        err.print("Nothing was found.")
    for rank, hit in enumerate(hits, start=1):
        score = f"{hit.score:.4f}" if hit.fused else f"{hit.score:.2f}"
        out.print(Text.assemble(f"{rank:>2}. ", (hit.title or hit.document_id, "bold"), f"  {score}"))
        out.print(Text(f"    {hit.document_id} · characters {hit.start}-{hit.end}", style="dim"))
        if hit.fused:
            sides = (("MaxSim", hit.fused.maxsim, hit.fused.maxsim_rank), ("BM25", hit.fused.bm25, hit.fused.bm25_rank))
            told = [f"{name} {score:.2f}" + (f" (rank {own})" if own else "") for name, score, own in sides]
            out.print(Text(f"    {', '.join(told)}", style="dim"))
        passage = " ".join(hit.text.split())
        out.print(Text(f"    {passage[:240]}{'…' if len(passage) > 240 else ''}"))


def print_description(description: dict[str, Any]) -> None:
    """`inspect` for people."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column()
    table.add_column(overflow="fold")
    for name, value in description.items():
        if isinstance(value, dict):
            for inner, size in value.items():
                table.add_row(f"  {inner}", f"{size:,}")
        else:
            told = f"{value:,}" if isinstance(value, int) else str(value)
            table.add_row(name.replace("_", " "), Text(told))
    out.print(table)


def print_rows(rows: list[dict[str, Any]], as_json: bool) -> None:
    """A list of records: a table for people, one JSON array for programs."""
    if as_json:
        print_json(rows)
        return
    table = Table(box=None, pad_edge=False)
    for name in rows[0] if rows else []:
        table.add_column(Text(name), overflow="fold")
    for row in rows:
        table.add_row(*(Text("" if value is None else str(value)) for value in row.values()))
    out.print(table if rows else "None.")

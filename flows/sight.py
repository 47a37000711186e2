"""What the Prefect UI shows of a run: how far it is, what it did, which version came of it, and what to look at."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar, cast
from uuid import UUID

from prefect import get_run_logger
from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.states import Completed

from flows.summary import Summary
from index_format import keys
from index_format.index import Index
from index_format.reports import read_report
from tasks import progress
from tasks.drift import SegmentDrift

EVERY_SECONDS = 10.0  # an update is two hundredths of a second of processor, and a build has an hour of them
_SHOWN_ROWS = 100
_SHOWN_CHARACTERS = 300  # of an id or a reason: nobody reads more, and an id may be a whole text by mistake

Result = TypeVar("Result")


@contextmanager
def progress_shown(index: str) -> Iterator[None]:
    """Show on the run's page how far each stage is, as this process sees it."""
    artifact = create_progress_artifact(0.0, key="progress", description=f"{index}: starting")
    assert isinstance(artifact, UUID)  # a coroutine only where a loop runs, and flows here are no coroutines
    bar = _Bar(artifact, index)
    with progress.listening(bar.hear):
        yield
    bar.show("done", 100.0)


class _Bar:
    """A progress artifact, told anew every ten seconds."""

    def __init__(self, artifact: UUID, index: str) -> None:
        self._artifact = artifact
        self._index = index
        self._totals: dict[str, int] = {}
        self._done: dict[str, int] = {}
        self._shown_at = time.monotonic()

    def hear(self, step: progress.Step) -> None:
        """Take a step in; show it when the last is some seconds old."""
        if step.total is not None:
            self._totals[step.stage] = step.total
        self._done[step.stage] = self._done.get(step.stage, 0) + step.advance
        if time.monotonic() - self._shown_at >= EVERY_SECONDS:
            total = self._totals.get(step.stage, 0)
            self.show(step.stage, min(100.0, 100 * self._done[step.stage] / total) if total else 0.0)

    def show(self, stage: str, percent: float) -> None:
        self._shown_at = time.monotonic()
        try:
            update_progress_artifact(self._artifact, round(percent, 1), description=f"{self._index}: {stage}")
        except Exception as error:  # noqa: BLE001  # a picture of the work must not stop the work
            get_run_logger().debug("progress could not be shown: %s", error)


def show_summary(summary: Summary) -> Summary:
    """Leave the numbers of a run on its page, and a link to the version that is current after it."""
    left_out = ("seconds", "rejected_file", "drift", "warnings")
    numbers = {name: value for name, value in asdict(summary).items() if name not in left_out}
    numbers |= {f"seconds: {stage}": seconds for stage, seconds in summary.seconds.items()}
    numbers |= {f"tokens a second: {stage}": rate for stage, rate in summary.tokens_a_second.items()}
    show_numbers(numbers, summary.index)
    link_version(summary.index, summary.version)
    with _no_failure("set-aside"):
        reasons = read_report(Index.at(summary.index).files, summary.rejected_file)
        show_rows("set-aside", reasons, f"{summary.rejected} rows were set aside")
    for warning in summary.warnings:
        warn(warning)
    return summary


@contextmanager
def _no_failure(shown: str) -> Iterator[None]:
    """What is shown is done already: a page that cannot be written makes no failure of a run that has published."""
    try:
        yield
    except Exception as error:  # noqa: BLE001  # whatever it is
        get_run_logger().warning("%s could not be shown: %s", shown, error)


def show_rows(key: str, rows: Sequence[Mapping[str, object]], description: str) -> None:
    """Leave the first of some rows on the page, if there are any; their texts are cut where they are long."""
    table = [{name: _shortened(value) for name, value in row.items()} for row in rows[:_SHOWN_ROWS]]
    if table:
        create_table_artifact(key=key, table=table, description=description)


def _shortened(value: object) -> object:
    if isinstance(value, str) and len(value) > _SHOWN_CHARACTERS:
        return f"{value[:_SHOWN_CHARACTERS]}…"
    return value


def show_numbers(numbers: Mapping[str, object], index: str) -> None:
    """Leave numbers on the page of this flow run."""
    rows = [{"what": name, "value": str(value)} for name, value in numbers.items()]
    with _no_failure("summary"):
        create_table_artifact(key="summary", table=rows, description=f"What this run did to {index}")


def show_drift(index: str, drift: Sequence[SegmentDrift], recall_10: float | None) -> None:
    """Leave a table of the segments against the codebook, and their recall against exhaustive search."""
    rows: list[dict[str, object]] = [{**asdict(one), "recall_10": None} for one in drift]
    rows.append({**dict.fromkeys(rows[0]), "segment": "all of the index", "recall_10": recall_10})
    create_table_artifact(key="drift", table=rows, description=f"Drift of {index}")


def link_version(index: str, version: int) -> None:
    """A link from the run to the manifest of a version."""
    place = index if "://" in index else Path(index).absolute().as_uri()
    with _no_failure("version"):
        create_link_artifact(f"{place}/{keys.manifest(version)}", f"version {version} of {index}", key="version")


def warn(warning: str) -> str:
    """Say something that a person should see: in the log, and on the page by itself. Returns it."""
    get_run_logger().warning(warning)
    with _no_failure("warning"):
        create_markdown_artifact(f"**Warning.** {warning}", key="warning")
    return warning


def busy(work: str, index: str) -> str:
    """Why a run does nothing."""
    return f"{index}: another {work} is at work on it, so this run did nothing."


def stood_aside(result: Result, why: str) -> Result:
    """What a flow returns when it does nothing because another run is at it: its state in Prefect says so too."""
    return cast("Result", Completed(name="Stood aside", message=why, data=result))

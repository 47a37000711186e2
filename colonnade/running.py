"""Flows run from the command line, in this process.

They report to the Prefect server of the user's profile, else to a temporary one.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, TypeVar

import typer

from index_format.errors import InputError, NothingToIndex, StorageError

if TYPE_CHECKING:
    from pydantic import BaseModel

    from flows.summary import Summary

_AGAIN_SECONDS = 20.0

Result = TypeVar("Result")
Parameters = TypeVar("Parameters", bound="BaseModel")


def validated(model: type[Parameters], **values: object) -> Parameters:
    """The parameters of a flow. Raises InputError, with every value that is wrong."""
    from pydantic import ValidationError

    try:
        return model.model_validate(values)
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}, got {one['input']!r}" for one in error.errors()]
        raise InputError("; ".join(faults) + ".") from None


def refuse_missing(source: str) -> None:
    """Raise SourceError where there is no such source: the likeliest mistake, told before Prefect takes its seconds."""
    from tasks.sources import find_source

    find_source(source)


def run_and_tell(call: Callable[[], Summary], list_rejected: bool, as_json: bool) -> None:
    """Run a flow, then tell what it did."""
    from colonnade import terminal

    try:
        summary = run_flow(call)
    except NothingToIndex as error:
        if list_rejected:
            terminal.print_rows(error.reasons, as_json)
        raise
    except KeyboardInterrupt:
        typer.echo(
            "Interrupted. What was published stays, nothing else was changed; finished shards wait for the next run.",
            err=True,
        )
        raise
    tell(summary, list_rejected, as_json)


def tell(summary: Summary, list_rejected: bool, as_json: bool) -> None:
    """Tell what a run did, and what it set aside."""
    from colonnade import inspection, terminal
    from index_format.index import Index
    from index_format.reports import read_report

    rejected = read_report(Index.at(summary.index).files, summary.rejected_file)
    if as_json:
        terminal.print_json(inspection.summary_as_dict(summary, rejected if list_rejected else None))
        return
    terminal.print_summary(summary)
    if list_rejected:
        terminal.print_rows(rejected, False)
    elif rejected:
        reasons = "; ".join(
            f"row {row['row']}: {row['reason']}" if row["row"] else row["reason"] for row in rejected[:3]
        )
        typer.echo(f"Set aside: {reasons}{' ...' if len(rejected) > 3 else ''} (--list-rejected lists all)", err=True)


def run_flow(call: Callable[[], Result]) -> Result:
    """Run a flow with progress bars. Ctrl-C stops its work at the next step and leaves the index as it was."""
    from prefect.settings import PREFECT_API_URL, PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    from colonnade import terminal

    # A server that stays tells by heartbeats that a run was killed. One that ends with the run has no use for them,
    # and they would add a second to the run.
    quick = {} if PREFECT_API_URL.value() else {PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}
    with terminal.progress_bars() as stopping, temporary_settings(quick):

        def stop(_number: int, _frame: FrameType | None) -> None:
            # The tasks run in threads, which no signal reaches: they look at this before each step.
            stopping.set()
            # It may have come while a library took a lock that the end of the run needs: then it comes again.
            signal.signal(signal.SIGALRM, stop)
            signal.setitimer(signal.ITIMER_REAL, _AGAIN_SECONDS)
            raise KeyboardInterrupt

        before = signal.signal(signal.SIGINT, stop)
        try:
            _reach_server()
            return call()
        finally:
            if stopping.is_set():
                signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGINT, before)


def _reach_server() -> None:
    """Ask Prefect's server, or start the temporary one where there is no other, so that Ctrl-C does not stop it.

    A terminal sends Ctrl-C to every process of the group. The run needs the server a moment longer, to say
    how it ended. A process inherits the signals that the thread which started it had blocked.
    """
    import httpx
    from prefect import get_client
    from prefect.settings import PREFECT_API_URL

    failed: list[Exception] = []

    def reach() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            with get_client(sync_client=True) as client:
                client.hello().raise_for_status()
        except (RuntimeError, httpx.HTTPError) as error:
            failed.append(error)

    thread = threading.Thread(target=reach, daemon=True)
    thread.start()
    thread.join()
    if failed and PREFECT_API_URL.value():
        raise StorageError(
            f"Prefect's server at {PREFECT_API_URL.value()} does not answer ({failed[0]}). Nothing was changed. Start "
            "it (`prefect server start`), correct PREFECT_API_URL, or unset it for a temporary one."
        )
    if failed:
        raise StorageError(
            f"Prefect's temporary server did not start ({failed[0]}). Nothing was changed. Run again when the machine "
            "is less busy, or start a server that stays, with `prefect server start`, and name it in PREFECT_API_URL."
        )


def prepare_prefect() -> None:
    """Settings for short runs from a terminal, where the user has not set others. Before Prefect is imported."""
    quiet = {
        "PREFECT_LOGGING_LEVEL": "CRITICAL",  # errors are ours to print, without their trace
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",  # a first start migrates a database
        "DO_NOT_TRACK": "1",
    }
    for name, value in quiet.items():
        os.environ.setdefault(name, value)

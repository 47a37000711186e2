"""Flows run from the command line: in this process, against the Prefect server of the user's profile or a temporary one."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from colonnade import terminal

if TYPE_CHECKING:
    from flows.summary import Summary


def run_flow(call: Callable[[], Summary]) -> Summary:
    """Run a flow with progress bars. Ctrl-C stops its work at the next step and leaves the index as it was."""
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    # Heartbeats are for workers; here they would add a second to every run.
    with terminal.progress_bars() as stopping, temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        try:
            return call()
        except BaseException:
            stopping.set()
            raise


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

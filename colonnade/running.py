"""Flows run from the command line, in this process.

They report to the Prefect server of the user's profile, else to a temporary one.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING

from colonnade import terminal

if TYPE_CHECKING:
    from flows.summary import Summary


def run_flow(call: Callable[[], Summary]) -> Summary:
    """Run a flow with progress bars. Ctrl-C stops its work at the next step and leaves the index as it was."""
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    # Heartbeats are for workers; here they would add a second to every run.
    with terminal.progress_bars() as stopping, temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):

        def stop(_number: int, _frame: FrameType | None) -> None:
            # The tasks run in threads, which no signal reaches: they look at this before each step.
            stopping.set()
            raise KeyboardInterrupt

        before = signal.signal(signal.SIGINT, stop)
        try:
            _reach_server()
            return call()
        finally:
            signal.signal(signal.SIGINT, before)


def _reach_server() -> None:
    """Start Prefect's temporary server, where there is no other, so that Ctrl-C does not stop it.

    A terminal sends Ctrl-C to every process of the group. The run needs the server a moment longer, to say
    how it ended. A process inherits the signals that the thread which started it had blocked.
    """
    from prefect import get_client

    def reach() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        with get_client(sync_client=True):
            pass

    thread = threading.Thread(target=reach, daemon=True)
    thread.start()
    thread.join()


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

"""Waiting for what other threads and processes do: with patience, for slowness is not a failure."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Met = TypeVar("Met")


def until(condition: Callable[[], Met], what: str, seconds: float = 60, every: float = 0.02) -> Met:
    """What `condition` returns, as soon as that is true. Raises AssertionError, which says `what` did not happen.

    every: seconds between two looks.
    """
    deadline = time.monotonic() + seconds
    while not (met := condition()):
        assert time.monotonic() < deadline, f"not within {seconds:g} seconds: {what}"
        time.sleep(every)
    return met

"""Runs that are better not at work on one index at once take turns, as far as Prefect's server is there to count.

A turn is good manners and no lock: the commit protocol keeps two compactions from harming each other, and one of
them has worked in vain. So nobody waits for longer than a minute, whatever became of the run before: a run that was
killed keeps its turn until its lease ends, and a server that was killed may have forgotten whose turn it was.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from prefect import get_run_logger
from prefect.client.orchestration import get_client
from prefect.concurrency.sync import concurrency

LONGEST_WAIT_SECONDS = 60.0
_LEASE_SECONDS = 60.0  # the least that Prefect takes


@contextmanager
def turn(work: str, index: str) -> Iterator[None]:
    """Wait until no other run does this work on this index, a minute at most."""
    # A limit's name takes no slashes.
    name = f"{work}-{hashlib.sha256(index.encode()).hexdigest()[:16]}"
    with get_client(sync_client=True) as client:
        client.upsert_global_concurrency_limit_by_name(name, 1)
    with ExitStack() as stack:
        try:
            stack.enter_context(
                concurrency(name, timeout_seconds=LONGEST_WAIT_SECONDS, lease_duration=_LEASE_SECONDS, strict=True)
            )
        except TimeoutError:
            get_run_logger().warning("%s of %s goes on beside another run, or what is left of it", work, index)
        yield

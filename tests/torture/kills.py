"""kill -9 at random moments, in a directory and in a bucket over HTTP.

A forked process changes an index and tells through a pipe what was acknowledged. It is killed, and the index must
hold all that was acknowledged, each document once, and at most the one change that was under way.
"""

from __future__ import annotations

import os
import random
import signal
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from index_format.index import Index
from index_format.store import open_store
from tests.s3_server import bucket_for_tests
from tests.torture.operations import Documents, Plan, begin, must_hold, plans
from tests.torture.registry import Step

KILLS_AN_INDEX = 25  # then a fresh one: each kill checks all of it
ONE_IN_A_BUCKET = 5
LONGEST_SECONDS = {"directory": 0.25, "bucket": 0.8}


def run(count: int, seed: int, step: Step) -> str:
    """Kill `count` workers, every fifth of them at work in a bucket."""
    rng, acknowledged, under_way = random.Random(seed), 0, 0
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        bucket = stack.enter_context(bucket_for_tests())
        places = {"directory": _indexes(str(folder)), "bucket": _indexes(bucket)}
        for number in range(count):
            kind = "bucket" if number % ONE_IN_A_BUCKET == 0 else "directory"
            index, documents = next(places[kind])
            own = plans(documents, rng.randrange(2**32))
            done = _killed(index.address, folder / "worker-cache", own, rng.uniform(0, LONGEST_SECONDS[kind]))
            states = [dict(documents), *(plan.after for plan in own)][done : done + 2]
            place = must_hold(index, states, f"seed {seed}, kill {number} ({kind}) in {own[done].name}")
            documents.clear()
            documents.update(states[place])
            acknowledged += done
            under_way += place and states[0] != states[1]
            step()
    return (
        f"{count:,} kills, {acknowledged:,} acknowledged changes, {under_way:,} more had landed unsaid: "
        "0 lost, 0 doubled, every index sound after every kill"
    )


def _indexes(base: str) -> Iterator[tuple[Index, Documents]]:
    while True:
        with tempfile.TemporaryDirectory() as cache:
            index = Index(open_store(f"{base}/{uuid.uuid4().hex}"), Path(cache))
            documents = begin(index)
            for _ in range(KILLS_AN_INDEX):
                yield index, documents


def _killed(address: str, cache: Path, own: list[Plan], seconds: float) -> int:
    """How many plans a worker acknowledged before it was killed."""
    reading, writing = os.pipe()
    worker = os.fork()
    if worker == 0:
        try:
            index = Index(open_store(address), cache)
            for plan in own:
                os.write(writing, b".")  # about to begin: the clock of the kill starts with the first
                plan.run(index)
                os.write(writing, b"!")
        finally:
            os._exit(0)
    os.close(writing)
    said = os.read(reading, 1)
    time.sleep(seconds)
    os.kill(worker, signal.SIGKILL)
    os.waitpid(worker, 0)
    while more := os.read(reading, 65536):
        said += more
    os.close(reading)
    return said.count(b"!")

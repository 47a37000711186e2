"""Filters as they come, and with something odd in them: each matches what plain Python says, or is refused.

They go to indexes of two segments with drawn metadata, read from JSON as the server and the command line read them.
"""

from __future__ import annotations

import json
import random
import tempfile
import time
from collections import Counter
from pathlib import Path

import hypothesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from index_format.errors import InputError
from tests.index_format.filter_cases import Row, filters, found, plainly_matches, rows, two_segments
from tests.torture.disk import in_memory
from tests.torture.odd_requests import with_something_odd
from tests.torture.registry import Step

ON_AN_INDEX = 25  # filters; half of them are made odd
MOST_SECONDS = 1.0  # of a core, for one filter on a dozen documents


def run(count: int, seed: int, step: Step) -> str:
    """Ask `count` filters."""
    tally, slowest = Counter[str](), 0.0

    @hypothesis.seed(seed)
    @settings(
        max_examples=-(-count // ON_AN_INDEX),
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(first=rows, second=rows, asked=st.lists(filters, min_size=ON_AN_INDEX, max_size=ON_AN_INDEX))
    def ask(first: list[Row], second: list[Row], asked: list[Row]) -> None:
        nonlocal slowest
        with tempfile.TemporaryDirectory(dir=in_memory()) as cache:
            index, documents = two_segments(Path(cache), first, second)
            for number, one in enumerate(asked):
                given_filter = with_something_odd(one, random.Random(json.dumps(one))) if number % 2 else one
                begun = time.thread_time()
                try:
                    matched = found(index, json.dumps(given_filter))
                except InputError:
                    assert number % 2, f"refused, and nothing is wrong with it: {given_filter}"
                    tally["refused"] += 1
                else:
                    expected = [row["id"] for row in documents if plainly_matches(given_filter, row)]
                    assert matched == expected, given_filter
                    tally["matched"] += 1
                slowest = max(slowest, time.thread_time() - begun)
                step()

    ask()
    assert slowest < MOST_SECONDS, f"seed {seed}: a filter took {slowest:.1f} s"
    return (
        f"{tally.total():,} filters, half of them made odd: {tally['matched']:,} matched what plain Python says, "
        f"{tally['refused']:,} were refused, the slowest took {1000 * slowest:.0f} ms of a core"
    )

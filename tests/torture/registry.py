"""The tortures by name. Each is a module with `run(count, seed, step)`, which returns the sentence that it proved.

`run` calls `step` after each of its `count` cases and raises AssertionError, with the seed, at the first violation.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass

Step = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Torture:
    """What `make torture` runs, and how many cases of it; `smoke` run in the suite (0: it has tests of its own)."""

    module: str
    count: int
    smoke: int

    def run(self, count: int, seed: int, step: Step = lambda: None) -> str:
        """Run `count` cases and return the figure as a sentence."""
        figure: str = importlib.import_module(self.module).run(count, seed, step)
        return figure


TORTURES = {
    "flips": Torture("tests.torture.flips", count=15_000, smoke=150),
    "kills": Torture("tests.torture.kills", count=1_000, smoke=15),
    "faults": Torture("tests.torture.faults", count=13_000, smoke=60),
    "power": Torture("tests.torture.power", count=5_000, smoke=60),
    "requests": Torture("tests.torture.requests", count=100_000, smoke=100),
    "filters": Torture("tests.torture.filters", count=200_000, smoke=100),
    "server": Torture("tests.torture.server", count=100, smoke=2),
    "flow-kills": Torture("tests.torture.flow_kills", count=100, smoke=0),
    "s3-faults": Torture("tests.torture.s3_faults", count=10_000, smoke=100),
}

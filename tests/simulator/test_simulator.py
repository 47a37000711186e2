"""A short round of the protocol simulator; `make torture` does the long one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.simulator.rules import RULES
from tests.simulator.simulate import first_violation, simulate

# Rules whose absence shows within a few schedules. The others take up to a hundred each: `make torture` tries all.
QUICK = [
    "a version counts only as parent of the next",
    "nothing is deleted after an attempt to commit",
    "no file older than the horizon is newly named",
    "collection commits before it deletes",
    "collection raises the horizon",
    "collection raises the floor",
    "collection spares what all retained versions name",
    "a change starts over when its base was collected",
    "a head that was collected is looked for again",
    "a reader whose version was collected opens the next",
    "a document takes the place of the live one with its id",
    "segments of another codebook are refused",
]


@pytest.mark.slow
def test_no_order_of_calls_and_no_fault_breaks_a_promise(tmp_path: Path) -> None:
    """Writers, compactors, collectors, a codebook change, rollbacks and readers on an unreliable store."""
    found = first_violation(range(60), tmp_path)
    assert found is None, f"seed {found[0]}: {found[1].violation}"


@pytest.mark.parametrize("rule", QUICK)
def test_without_a_rule_a_promise_is_broken(rule: str, tmp_path: Path) -> None:
    """So the silence of the test above means something."""
    assert first_violation(range(200), tmp_path, RULES[rule]) is not None


def test_a_seed_gives_the_same_schedule_again(tmp_path: Path) -> None:
    """A violation can be looked at twice."""
    assert simulate(3, tmp_path).counts == simulate(3, tmp_path).counts

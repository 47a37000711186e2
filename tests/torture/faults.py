"""Every call of an operation to the operating system fails: the first, the second, …, once or from then on.

Each time the operation says so by an error of ours or is done; the index is as before or as after, in full; and the
same operation again, with a disk that works, is done.
"""

from __future__ import annotations

import errno
import itertools
import os
import random
import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from index_format.errors import ColonnadeError, CommitUnknown
from index_format.index import Index
from index_format.store import LocalStore
from tests.torture.disk import Call, in_memory, watched
from tests.torture.operations import FIRST, Documents, Plan, first_build, must_hold, one_of_each
from tests.torture.registry import Step

FAULTS = ("EIO", "ENOSPC", "EDQUOT", "EACCES", "EMFILE", "short write")


@dataclass(slots=True)
class _Failing:
    """Fails the n-th call, and with `forever` all later ones; counts calls and failures."""

    at: int
    fault: str
    forever: bool
    calls: int = 0
    failures: int = 0

    def __call__(self, call: Call) -> int | None:
        self.calls += 1
        if self.calls != self.at and not (self.forever and self.calls > self.at):
            return None
        if self.fault == "short write":
            self.failures += call.name == "write"
            return max(1, len(call.data) // 2) if call.name == "write" else None
        self.failures += 1
        number = getattr(errno, self.fault)
        raise OSError(number, os.strerror(number), str(call.path))


def run(count: int, seed: int, step: Step) -> str:
    """Fail `count` calls, of one operation after the other."""
    rng, outcomes, operations = random.Random(seed), Counter[str](), 0
    with tempfile.TemporaryDirectory(dir=in_memory()) as folder:
        base, root = Path(folder, "base"), Path(folder, "index")
        base.mkdir()
        documents, row = Documents(), [first_build(), *one_of_each(FIRST, rng.randrange(2**32))]
        share = -(-count // len(row))
        while outcomes.total() < count:
            plan, *row = row or one_of_each(documents, rng.randrange(2**32))
            for case in _cases(base, plan, rng)[: min(share, count - outcomes.total())]:
                outcomes[_fail(base, root, documents, plan, case, seed)] += 1
                shutil.rmtree(root)
                step()
            operations += 1
            plan.run(Index(LocalStore(base)))
            documents = plan.after
    failed, done = outcomes["failed"], outcomes["done"]
    return (
        f"{count:,} failing calls in {operations} operations: {failed:,} ended in an error of ours, {done:,} were "
        f"done all the same, {outcomes['unknown']:,} said that the outcome is unknown: 0 torn"
    )


def _cases(base: Path, plan: Plan, rng: random.Random) -> list[tuple[int, str, bool]]:
    """Every call of a plan with every fault, once and for ever, in random order."""
    counting = _Failing(at=0, fault="EIO", forever=False)
    copy = base.with_name("counted")
    shutil.copytree(base, copy)
    with watched(copy, counting):
        plan.run(Index(LocalStore(copy)))
    shutil.rmtree(copy)
    every = list(itertools.product(range(1, counting.calls + 1), FAULTS, (False, True)))
    return rng.sample(every, len(every))


def _fail(base: Path, root: Path, documents: Documents, plan: Plan, case: tuple[int, str, bool], seed: int) -> str:
    failing = _Failing(*case)
    when = f"seed {seed}, {plan.name}, call {case[0]} fails with {case[1]} {'for ever' if case[2] else 'once'}"
    shutil.copytree(base, root)
    outcome = "done"
    with watched(root, failing):
        try:
            plan.run(Index(LocalStore(root)))
        except ColonnadeError as error:
            outcome = "unknown" if isinstance(error, CommitUnknown) else "failed"
    allowed = {"done": [plan.after], "failed": [documents], "unknown": [documents, plan.after]}[outcome]
    must_hold(Index(LocalStore(root)), allowed, when)
    plan.run(Index(LocalStore(root)))
    must_hold(Index(LocalStore(root)), [plan.after], f"{when}, then again")
    return outcome

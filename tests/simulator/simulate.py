"""Seeded schedules of writers, compactors, collectors, a codebook change, rollbacks and readers over the real code.

python -m tests.simulator.simulate --schedules 20000            # the figure of `make torture`
python -m tests.simulator.simulate --rules --schedules 2000     # each rule removed in turn: is it caught?
python -m tests.simulator.simulate --seed 17                    # one schedule again, with its trace
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq

from index_format import commit, files, keys, schema, segment
from index_format.index import Index
from tests.simulator.actors import Actors
from tests.simulator.rules import RULES, Removal
from tests.simulator.schedule import Actor, Schedule
from tests.simulator.store import Faults, SimStore
from tests.simulator.world import Violation, World
from tests.strategies import add, make_recipe

FIRST = {"a": "harbour lantern", "b": "copper"}


@dataclass(frozen=True)
class Outcome:
    """What one schedule did."""

    violation: Violation | None
    counts: Counter[str]


def simulate(seed: int, root: Path) -> Outcome:
    """Run one schedule in a directory of its own."""
    schedule, world = Schedule(seed), World()
    drawn = schedule.random
    # A quarter of all schedules have no faults at all: there, only the order of things is at work.
    write = drawn.choice([0.0, 0.05, 0.15, 0.4])
    faults = Faults(write, read=write / 20, kill=write / 40)
    place = root / str(seed)
    place.mkdir()
    store = SimStore(schedule, world, place, faults)
    with simulated(schedule):
        index = Index(store)
        world.effects["add"] = lambda _: FIRST
        add(index, make_recipe(index), FIRST)
        actors = Actors(schedule, world, store)
        work = [
            *[(actors.add, 4)] * 2,
            (actors.delete, 3),
            *[(actors.compact, 3)] * 2,
            *[(actors.collect, 3)] * 2,
            (actors.swap_codebook, 2),
            (actors.turn_back, 3),
            *[(actors.read, 4)] * 2,
        ]
        skews = [0, 0, 0, -2000, 2000]
        cast = [
            Actor(f"{operation.__name__} {at}", actors.loop(operation, times), drawn.choice(skews))
            for at, (operation, times) in enumerate(work)
        ]
        schedule.run(cast)
        violation = actors.violation
        if violation is None:
            violation = _settled(store, actors, index)
    shutil.rmtree(place)
    counts = Counter(
        schedules=1,
        calls=store.calls,
        doubts=store.doubts,
        acknowledged=actors.acknowledged,
        versions=len(world.history),
        deletions=world.removed,
        **actors.outcomes,
    )
    return Outcome(violation, counts)


def _settled(store: SimStore, actors: Actors, index: Index) -> Violation | None:
    """After all is over: late writes arrive, and a reader, a compactor and a collector find all well."""
    try:
        store.settle()
        for operation in (actors.read, actors.compact, actors.collect, actors.read):
            operation(Index(store))
    except Violation as violation:
        return violation
    except Exception as error:  # noqa: BLE001  # whatever it is, it must not be
        return Violation(f"after all was over: {type(error).__name__}: {error}")
    return None


@contextlib.contextmanager
def simulated(schedule: Schedule) -> Iterator[None]:
    """Names, clock and pauses from the schedule; what is immutable is parsed once, which changes no call."""
    open_parquet = schema.open_parquet
    names = iter(range(1, 10**9))

    def new_id() -> str:
        return f"{schedule.now:012x}{next(names):020x}"

    pausing = SimpleNamespace(sleep=lambda _: schedule.pause())
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(keys, "new_id", new_id))
        stack.enter_context(mock.patch.object(commit, "time", pausing))
        opened = _remembered(lambda path, rows=None: _ReadOnce(open_parquet(path, rows)))
        stack.enter_context(mock.patch.object(schema, "open_parquet", opened))
        stack.enter_context(mock.patch.object(files, "_digest", _remembered(files._digest)))
        stack.enter_context(mock.patch.object(segment, "map_npz", _remembered(segment.map_npz)))
        for attribute in vars(segment.SegmentReader).values():
            # Before Python 3.12 a cached property holds a lock of its class while it is computed: actors would wait.
            if hasattr(attribute, "lock"):
                stack.enter_context(mock.patch.object(attribute, "lock", contextlib.nullcontext()))
        yield


class _ReadOnce:
    """A Parquet file whose columns are decoded once."""

    def __init__(self, file: pq.ParquetFile) -> None:
        self.schema_arrow = file.schema_arrow
        self.table = file.read(use_threads=False)

    def read(self, columns: list[str] | None = None) -> pa.Table:
        return self.table.select(columns) if columns else self.table

    def read_row_groups(self, groups: list[int], columns: list[str]) -> pa.Table:
        assert groups == [0]  # the segments here are small
        return self.read(columns)


def _remembered(parse: Callable[..., Any]) -> Callable[..., Any]:
    parsed: dict[Path, Any] = {}

    def remembered(path: Path, *rest: object) -> Any:
        if path not in parsed:
            parsed[path] = parse(path, *rest)
        return parsed[path]

    return remembered


def first_violation(seeds: range, root: Path, removal: Removal | None = None) -> tuple[int, Outcome] | None:
    """The first schedule that breaks a promise, with a rule removed or with all of them."""
    for seed in seeds:
        with removal() if removal else contextlib.nullcontext():
            outcome = simulate(seed, root)
        if outcome.violation:
            return seed, outcome
    return None


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--schedules", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--rules", action="store_true")
    parser.add_argument("--rule", choices=RULES)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        if chosen.seed is not None:
            with RULES[chosen.rule]() if chosen.rule else contextlib.nullcontext():
                outcome = simulate(chosen.seed, root)
            print(dict(outcome.counts))
            if outcome.violation:
                raise outcome.violation
        elif chosen.rules or chosen.rule:
            sys.exit(not _try_rules([chosen.rule] if chosen.rule else list(RULES), chosen.schedules, root))
        else:
            sys.exit(not _try_all(chosen.first, chosen.schedules, root))


def _try_all(first: int, schedules: int, root: Path) -> bool:
    total, violations, start = Counter[str](), 0, time.monotonic()
    for seed in range(first, first + schedules):
        outcome = simulate(seed, root)
        total += outcome.counts
        if outcome.violation:
            violations += 1
            print(f"seed {seed}: {outcome.violation}", flush=True)
        if (seed + 1 - first) % 1000 == 0:
            print(
                f"{seed + 1 - first} schedules, {violations} violations, {time.monotonic() - start:.0f} s", flush=True
            )
    print(f"{schedules} schedules, {violations} violations in {time.monotonic() - start:.0f} s: {dict(total)}")
    return violations == 0


def _try_rules(names: list[str], schedules: int, root: Path) -> bool:
    missed = 0
    for name in names:
        found = first_violation(range(schedules), root, RULES[name])
        missed += found is None
        if found is None:
            print(f"{name}: not caught in {schedules} schedules", flush=True)
        else:
            print(f"{name}: caught after {found[0] + 1} schedules: {found[1].violation}", flush=True)
    print(f"{len(names) - missed} of {len(names)} removed rules caught")
    return missed == 0


if __name__ == "__main__":
    main()

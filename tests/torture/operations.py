"""What is done to an index while it is tortured, and what must be true of it afterwards.

An operation is planned before it runs: what the index must hold when it is done is known even if it never says so.
Compaction and the like belong here too: their plan is that the documents stay.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random

from index_format.index import Index
from index_format.verify import verify
from tests.strategies import WORDS, add, delete, live_texts, make_recipe, recipe_of

Documents = dict[str, str]
IDS = [f"doc-{number}" for number in range(8)]
FIRST = dict.fromkeys(IDS[:4], "harbour lantern copper")


@dataclass(frozen=True, slots=True)
class Plan:
    """An operation that is about to run: its name, what it does, and the documents when it is done."""

    name: str
    run: Callable[[Index], object]
    after: Documents


def _texts(rng: Random) -> str:
    return " ".join(rng.choices(WORDS, k=rng.randint(1, 9)))


def _ingest(documents: Mapping[str, str], rng: Random) -> Plan:
    batch = {one: _texts(rng) for one in rng.sample(IDS, rng.randint(1, 4))}
    return Plan("ingest", lambda index: add(index, recipe_of(index), batch), {**documents, **batch})


def _delete(documents: Mapping[str, str], rng: Random) -> Plan:
    gone = rng.sample(IDS, rng.randint(1, 2))
    left = {one: text for one, text in documents.items() if one not in gone}
    return Plan("delete", lambda index: delete(index, *gone), left)


Planner = Callable[[Mapping[str, str], Random], Plan]
OPERATIONS: list[Planner] = [_ingest, _ingest, _delete]


def begin(index: Index) -> Documents:
    """Make version 1 and return what it holds."""
    add(index, make_recipe(index), FIRST)
    return dict(FIRST)


def first_build() -> Plan:
    """Version 1, of an index that is not there; nothing where one is."""
    return Plan("build", lambda index: index.versions() or begin(index), dict(FIRST))


def plans(documents: Documents, seed: int) -> list[Plan]:
    """A long row of operations; the same seed gives the same."""
    rng, made = Random(seed), []
    for _ in range(200):
        plan = rng.choice(OPERATIONS)(documents, rng)
        documents = plan.after
        made.append(plan)
    return made


def must_hold(index: Index, allowed: list[Documents], when: str) -> int:
    """Which of the allowed states the index is in; raises AssertionError when in none, or not sound in full.

    Reads everything, and checks every rule of the format. A document that is live twice is a broken rule.
    """
    faults = list(verify(index.store, index.versions()[-1:]))
    assert not faults, f"{when}: {faults[0]}"
    held = live_texts(index)
    assert held in allowed, f"{when}: the index holds {held}, expected one of {allowed}"
    return allowed.index(held)

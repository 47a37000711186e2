"""What is done to an index while it is tortured, and what must be true of it afterwards.

An operation is planned before it runs: what the index must hold when it is done is known even if it never says so.
The plan of compaction, garbage collection and another codebook is that the documents stay.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random

import msgspec
import numpy as np

from index_format import keys
from index_format.change import Origin, replace_codebook
from index_format.codebook import Codebook
from index_format.compaction import CompactionPolicy, compact_index
from index_format.garbage import collect_garbage
from index_format.history import Retention
from index_format.index import Index
from index_format.segment import write_codebook
from index_format.verify import verify
from tests.strategies import CENTROIDS, WORDS, add, delete, live_texts, make_recipe, recipe_of, word_vector

Documents = dict[str, str]
IDS = [f"doc-{number}" for number in range(8)]
ALL_SMALL = CompactionPolicy(alike=2, deleted_share=0.01)
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


def _compact(documents: Mapping[str, str], _rng: Random) -> Plan:
    return Plan("compact", lambda index: compact_index(index, ALL_SMALL), dict(documents))


def _collect(documents: Mapping[str, str], rng: Random) -> Plan:
    """With no grace at all: whatever a change that failed or was killed left behind goes."""
    retention = Retention(versions=rng.randint(1, 3), days=0)
    return Plan("gc", lambda index: collect_garbage(index, retention, time.time_ns() // 1_000_000), dict(documents))


def _retrain(documents: Mapping[str, str], rng: Random) -> Plan:
    chosen = rng.sample(WORDS, CENTROIDS)
    return Plan("codebook", lambda index: another_codebook(index, chosen), dict(documents))


def another_codebook(index: Index, chosen: Sequence[str]) -> None:
    replaced, book_id = index.current().codebook, keys.new_id()
    file = write_codebook(index.store, book_id, Codebook.of(np.stack([word_vector(word) for word in chosen])))
    book = msgspec.structs.replace(replaced, id=book_id, centroids=CENTROIDS, file=file)
    replace_codebook(index, replaced.id, book, Origin("codebook"))


Planner = Callable[[Mapping[str, str], Random], Plan]
# In an order in which each finds something to do.
OPERATIONS: list[Planner] = [_ingest, _ingest, _delete, _retrain, _ingest, _compact, _collect]


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


def one_of_each(documents: Documents, seed: int) -> list[Plan]:
    """Every operation, each with something to do."""
    rng, made = Random(seed), []
    for operation in OPERATIONS:
        made.append(operation(documents, rng))
        documents = made[-1].after
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

"""Several queries at once: each has the answer that it has alone, whatever it shares a pass with."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from index_format.filters import parse_filter
from serving.matches import Selection
from serving.passes import Wanted, passes, rank_together
from serving.scorer import Recall
from serving.search import rank
from serving.snapshot import Snapshot
from tests.serving.vectors import random_documents, random_snapshot, random_vectors

DIM = 16
RECALLS: list[Recall] = ["exact", "balanced", "fast"]


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    """Forty documents of three passages in three segments; "fast" is given candidates, the others score everything."""
    lengths = np.random.default_rng(0).integers(1, 12, size=(40, 3)).tolist()
    documents = random_documents(0, lengths, DIM)
    opened = random_snapshot(tmp_path_factory.mktemp("cache"), documents[:10], documents[10:11], documents[11:])
    opened.scorer.exhaustive_bytes = {"fast": 0, "balanced": np.inf, "exact": np.inf}
    return opened


def _selections(snapshot: Snapshot) -> list[Selection]:
    """All passages, those of two filters, and none."""
    below = [parse_filter({"op": "<", "column": "number", "value": number}) for number in (7, 25, 0)]
    return [snapshot.everything, *(snapshot.select(one) for one in below)]


def _wanted(selections: list[Selection], seed: int, vectors: int, k: int, recall: Recall, among: int) -> Wanted:
    return Wanted(random_vectors(np.random.default_rng(seed), vectors, DIM), k, recall, selections[among])


@given(
    asked=st.lists(
        st.tuples(
            st.integers(0, 99),
            st.integers(1, 70),
            st.sampled_from([1, 5, 1000]),
            st.sampled_from(RECALLS),
            st.integers(0, 3),
        ),
        min_size=1,
        max_size=17,
    )
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_each_of_several_queries_has_the_ranking_that_it_has_alone(
    snapshot: Snapshot, asked: list[tuple[int, int, int, Recall, int]]
) -> None:
    """Of different lengths, numbers of hits, recalls and filters: the same passages, scores and counts, bit for bit."""
    selections = _selections(snapshot)
    wanted = {place: _wanted(selections, *one) for place, one in enumerate(asked)}
    found = {}
    for places in passes(snapshot, wanted):
        rankings = rank_together(snapshot, [wanted[place] for place in places], threads=2)
        found |= dict(zip(places, rankings, strict=True))
    alone = [rank(snapshot, one.vectors, one.k, recall=one.recall, among=one.among) for one in wanted.values()]
    assert [found[place] for place in wanted] == alone


def test_short_queries_over_the_same_passages_share_a_pass(snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where others come between them; who has another filter, or candidates, has passes of its own."""
    monkeypatch.setattr(snapshot.scorer, "sharing", lambda counts: [range(len(counts))])
    everything, few, *_ = _selections(snapshot)
    vectors = random_vectors(np.random.default_rng(0), 4, DIM)
    asked: list[tuple[Recall, Selection]] = [
        ("exact", everything),
        ("exact", few),
        ("balanced", everything),
        ("fast", everything),
        ("balanced", few),
        ("fast", everything),
    ]
    wanted = {place: Wanted(vectors, 3, *one) for place, one in enumerate(asked)}
    assert passes(snapshot, wanted) == [[0, 2], [1, 4], [3], [5]]

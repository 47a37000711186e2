"""Rankings that a version is measured by."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from serving.search import rank
from tasks import evaluate
from tasks.evaluate import rankings
from tests.serving.vectors import random_documents, random_snapshot, random_vectors

_DIM = 16


@pytest.mark.parametrize("bytes_at_once", [1, 1500, 2**30])
def test_an_exact_ranking_is_the_same_however_many_segments_are_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bytes_at_once: int
) -> None:
    """It is made of those of its parts: best first, equal ones by the id of their document."""
    monkeypatch.setattr(evaluate, "_BYTES_AT_ONCE", bytes_at_once)
    documents = random_documents(3, [[5, 3], [1], [9, 2, 4]] * 8, _DIM)
    parts = [documents[first : first + 4] for first in range(0, len(documents), 4)]
    snapshot = random_snapshot(tmp_path, *parts)
    for seed in range(5):
        query = random_vectors(np.random.default_rng(seed), 7, _DIM)
        whole = rank(snapshot, query, 200, recall="exact").passages
        places = [snapshot.place(passage) for passage in whole]
        expected = list(dict.fromkeys(one.document_id(ordinal) for one, ordinal in places))
        assert rankings(snapshot, [query], "exact") == [expected]


def test_what_a_ranking_read_does_not_stay_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that measures a large index would else hold all of it."""
    forgotten: list[int] = []
    monkeypatch.setattr(evaluate, "forget", lambda array: forgotten.append(len(array)))
    documents = random_documents(4, [[5], [3, 2]] * 3, _DIM)
    snapshot = random_snapshot(tmp_path, documents[:3], documents[3:])
    mapped = [size for one in snapshot.segments for size in (one.record.tokens, len(one.centroids.ids))]
    query = random_vectors(np.random.default_rng(1), 5, _DIM)
    rankings(snapshot, [query], "exact")
    assert forgotten == mapped
    rankings(snapshot, [query], "balanced")
    assert forgotten == mapped * 2

"""Rankings that a version is measured by."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from serving.scorer import EXHAUSTIVE_BYTES
from serving.search import rank
from tasks import evaluate
from tasks.evaluate import rankings
from tests.serving.vectors import random_documents, random_snapshot, random_vectors

_DIM = 16


@pytest.mark.parametrize("at_once", [1, 7, 1000])
def test_a_ranking_is_the_same_however_many_passages_are_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(evaluate, "_PASSAGES_AT_ONCE", at_once)
    documents = random_documents(3, [[5, 3], [1], [9, 2, 4]] * 8, _DIM)
    snapshot = random_snapshot(tmp_path, *(documents[first : first + 4] for first in range(0, len(documents), 4)))
    for seed in range(5):
        query = random_vectors(np.random.default_rng(seed), 7, _DIM)
        whole = rank(snapshot, query, 200, recall="exact").passages
        places = [snapshot.place(passage) for passage in whole]
        expected = list(dict.fromkeys(one.document_id(ordinal) for one, ordinal in places))
        assert rankings(snapshot, [query], "exact") == [expected]


@pytest.mark.parametrize("exhaustive_bytes", [0, 2**30])
def test_what_a_ranking_read_does_not_stay_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exhaustive_bytes: int
) -> None:
    """A run that measures a large index would else hold all of it. By candidates, and with all passages scored."""
    forgotten: list[NDArray[np.generic]] = []
    monkeypatch.setattr(evaluate, "forget", forgotten.append)
    monkeypatch.setitem(EXHAUSTIVE_BYTES, "balanced", exhaustive_bytes)
    documents = random_documents(4, [[5], [3, 2]] * 3, _DIM)
    snapshot = random_snapshot(tmp_path, documents[:3], documents[3:])
    rankings(snapshot, [random_vectors(np.random.default_rng(1), 5, _DIM)], "balanced")
    read = [one.codes.codes for one in snapshot.segments]
    if not exhaustive_bytes:
        read += [one.centroids.ids for one in snapshot.segments]
    assert {id(one) for one in forgotten} == {id(one) for one in read}

"""Rankings that a version is measured by."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from index_format.segment import Codes
from serving.scorer import EXHAUSTIVE_BYTES
from serving.search import rank
from tasks import evaluate
from tasks.evaluate import rankings
from tests.serving.vectors import random_documents, random_snapshot, random_vectors

_DIM = 16


@pytest.mark.parametrize("stretch", [1, 40, 1000])
def test_a_ranking_is_the_same_however_many_passages_are_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stretch: int
) -> None:
    monkeypatch.setattr(evaluate, "_MAPPED_TOGETHER", stretch)
    monkeypatch.setattr(evaluate, "_STRETCHES_AT_ONCE", 2)
    documents = random_documents(3, [[5, 3], [1], [9, 2, 4]] * 8, _DIM)
    snapshot = random_snapshot(tmp_path, *(documents[first : first + 4] for first in range(0, len(documents), 4)))
    for seed in range(5):
        query = random_vectors(np.random.default_rng(seed), 7, _DIM)
        whole = rank(snapshot, query, 200, recall="exact").passages
        places = [snapshot.place(passage) for passage in whole]
        expected = list(dict.fromkeys(one.document_id(ordinal) for one, ordinal in places))
        assert rankings(snapshot, [query], "exact") == [expected]


@pytest.mark.parametrize("share", [0.01, 0.3, 1])
def test_no_more_than_some_stretches_of_the_codes_are_in_memory(monkeypatch: pytest.MonkeyPatch, share: float) -> None:
    """Of passages far apart few at a time, of neighbours many; each once and in order."""
    monkeypatch.setattr(evaluate, "_MAPPED_TOGETHER", 4096)
    random = np.random.default_rng(7)
    offsets = np.cumsum(random.integers(0, 40, 5001)).astype(np.uint32)
    codes = Codes(offsets, np.zeros((int(offsets[-1]), 8), np.uint8), np.ones(int(offsets[-1]), np.float16))
    ordinals = np.flatnonzero(random.random(5000) < share)
    parts = evaluate._stretches(codes, ordinals)
    assert np.concatenate(parts).tolist() == ordinals.tolist()
    touched = [len(np.unique(offsets[part].astype(np.int64) * 8 // 4096)) for part in parts]
    assert max(touched) == evaluate._STRETCHES_AT_ONCE
    assert len(parts) == math.ceil(sum(touched) / evaluate._STRETCHES_AT_ONCE)


def test_where_nothing_is_asked_no_codes_are_read() -> None:
    codes = Codes(np.zeros(3, np.uint32), np.zeros((0, 8), np.uint8), np.ones(0, np.float16))
    assert evaluate._stretches(codes, np.zeros(0, np.int64)) == []


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

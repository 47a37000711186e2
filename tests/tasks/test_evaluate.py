"""Rankings that a version is measured by."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from index_format.errors import InputError
from index_format.index import Index
from index_format.segment import Codes
from serving.scorer import EXHAUSTIVE_BYTES
from serving.search import rank
from tasks import evaluate
from tasks.evaluate import evaluate_sample, rankings
from tests.serving.vectors import random_documents, random_snapshot, random_vectors
from tests.strategies import WORDS, add, delete, make_recipe

_DIM = 16


def test_documents_that_two_versions_do_not_hold_alike_count_for_neither(tmp_path: Path) -> None:
    """Twins came before each document, one was deleted and one changed: what is left is found as it was."""
    index = Index.at(tmp_path)
    recipe = make_recipe(index)
    texts = {f"m{at:02}": " ".join(WORDS[at * step % 8] for step in range(1, 2 + at % 5)) for at in range(16)}
    before = add(index, recipe, texts)
    add(index, recipe, {name.replace("m", "a"): text for name, text in texts.items()} | {"m03": "copper " * 4})
    after = delete(index, "m05")
    assert before is not None
    assert after is not None
    assert evaluate_sample(index.address, after, 16, before).recall_10 == 1.0
    assert evaluate_sample(index.address, before, 16, after).recall_10 == 1.0


def test_versions_without_a_document_alike_are_not_compared(tmp_path: Path) -> None:
    """It would be called a recall of all."""
    index = Index.at(tmp_path)
    recipe = make_recipe(index)
    before = add(index, recipe, {"a": "copper", "b": "ember"})
    delete(index, "b")
    after = add(index, recipe, {"a": "violin", "c": "meadow"})
    assert before is not None
    assert after is not None
    with pytest.raises(InputError, match=r"versions 3 and 1 hold no document alike.*--queries"):
        evaluate_sample(index.address, after, 2, before)


@pytest.mark.parametrize("stretch", [1, 40, 1000])
def test_a_ranking_is_the_same_however_many_passages_are_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stretch: int
) -> None:
    """It is that of scoring everything, with a document where its best passage is."""
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
    """No passages are no stretches, not one that is empty."""
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

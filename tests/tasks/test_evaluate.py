"""Rankings that a version is measured by."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from index_format.errors import InputError
from index_format.index import Index
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

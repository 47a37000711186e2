"""Drift: how far segments lie from a codebook, by that of text of its own kind which it was not trained on."""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from index_format import keys
from index_format.compaction import CompactionPolicy, compact_index
from index_format.index import Index
from index_format.manifest import EncoderRecord
from index_format.segment import read_codebook
from tasks import drift, train_codebook
from tasks.drift import SegmentDrift, measure_drift
from tests.serving.vectors import Document, Vectors, make_recipe, write_documents
from tests.strategies import delete, publish, recipe_of

DIM, TOKENS, DOCUMENTS = 16, 8, 200
Kind = int
"""The dimension that all vectors of a kind of text lean to."""


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Index:
    """One segment of text of one kind, and a codebook that was trained on three quarters of it."""
    monkeypatch.setattr(train_codebook, "HELD_OUT_EVERY", 4)
    for module in (train_codebook, drift):
        monkeypatch.setattr(module, "LEAST_TOKENS", DOCUMENTS * TOKENS // 4)
    index = Index.at(tmp_path / "index")
    texts = documents(0, "own")
    sample = np.concatenate([one.passages[0] for one in texts])
    encoder = EncoderRecord(name="random", fingerprint="0" * 64, dim=DIM)
    recipe = make_recipe(index, sample, bits=8, centroids=1, encoder=encoder)
    segment = write_documents(index, recipe, texts)
    codebook = train_codebook.train_codebook(index.address, [segment], recipe.codec_record, DIM)
    recipe = replace(recipe, codebook_record=codebook, codebook=read_codebook(index.files, codebook, DIM))
    publish(index, recipe, segment)  # its centroid ids are of another codebook, which drift does not look at
    return index


def documents(kind: Kind, prefix: str) -> list[Document]:
    rng = np.random.default_rng([kind, len(prefix)])
    return [Document(id=f"{prefix}-{number}", passages=[_vectors(rng, kind)]) for number in range(DOCUMENTS)]


def add(index: Index, kind: Kind, prefix: str) -> None:
    """Publish a segment of later text."""
    recipe = recipe_of(index)
    publish(index, recipe, write_documents(index, recipe, documents(kind, prefix)))


def measured(index: Index) -> list[SegmentDrift]:
    return measure_drift(index.address, index.current().version)


def test_later_text_of_the_same_kind_has_not_drifted_and_another_kind_has(index: Index) -> None:
    """What the codebook was trained on lies nearer than the first, and has not drifted either."""
    add(index, 0, "like")
    add(index, 1, "other")
    own, like, other = measured(index)
    assert [one.own for one in (own, like, other)] == [True, False, False]
    assert [one.drifted for one in (own, like, other)] == [False, False, True]
    assert own.ratio is not None
    assert like.ratio == pytest.approx(1, abs=0.08)
    assert own.ratio < like.ratio


def test_the_tail_of_a_segment_is_told_beside_that_of_the_codebooks_own_text(index: Index) -> None:
    """The distance beyond which one vector in fifty lies; text of another kind has far more of them there."""
    add(index, 1, "other")
    own, other = measured(index)
    assert own.codebook_tail is not None
    assert own.tail == pytest.approx(own.codebook_tail, rel=0.1)
    assert other.codebook_tail == own.codebook_tail
    assert other.tail > 1.5 * own.codebook_tail


def test_drift_is_told_after_compaction(index: Index) -> None:
    """No segment is left that the codebook was trained on; what was held out from it stands with it."""
    delete(index, *(f"own-{number}" for number in range(0, DOCUMENTS, 2)))
    assert compact_index(index, CompactionPolicy()).rewritten == 1
    add(index, 1, "other")
    merged, other = measured(index)
    assert [one.own for one in (merged, other)] == [False, False]
    assert [one.drifted for one in (merged, other)] == [False, True]


def test_what_a_codebook_was_trained_on_is_no_matter_of_clocks(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose clock is far behind encodes what comes later."""
    numbers = count(1)
    monkeypatch.setattr(keys, "new_id", lambda: f"{next(numbers):032x}")
    add(index, 1, "other")
    assert [one.drifted for one in measured(index)] == [False, True]


def test_too_little_text_is_no_measure(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few sentences lie anywhere."""
    monkeypatch.setattr(drift, "LEAST_TOKENS", DOCUMENTS * TOKENS + 1)
    add(index, 1, "other")
    assert [one.ratio for one in measured(index)] == [None, None]


def _vectors(rng: np.random.Generator, kind: Kind) -> Vectors:
    leaning = rng.normal(size=(TOKENS, DIM)) * 0.3
    leaning[:, kind] += 1
    return (leaning / np.linalg.norm(leaning, axis=1, keepdims=True)).astype(np.float32)

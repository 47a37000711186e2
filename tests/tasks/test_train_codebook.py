"""The codebook: how many centroids, where they lie, and that the same corpus trains the same ones."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from index_format.errors import EncoderMismatch
from index_format.index import Index
from index_format.manifest import EncoderRecord
from index_format.segment import EncodedSegment, read_codebook
from index_format.store import LocalStore
from tasks import progress
from tasks.assign_centroids import assign_centroids
from tasks.train_codebook import (
    CENTROIDS_PER_ROOT_TOKEN,
    ITERATIONS,
    MAX_CENTROIDS,
    OUTLIER_SHARE,
    centroids_for,
    kmeans,
    outlier_distance,
    train_codebook,
)
from tests.serving.vectors import all_vectors, random_documents
from tests.serving.vectors import make_recipe as make_vector_recipe
from tests.serving.vectors import write_documents as write_vectors
from tests.strategies import DIM, WORDS, Recipe, make_recipe, word_vector, write_documents


@pytest.fixture
def index(tmp_path: Path) -> Index:
    return Index(LocalStore(tmp_path / "index"))


@pytest.fixture
def recipe(index: Index) -> Recipe:
    return make_recipe(index, bits=8)


def _vectors(count: int, dim: int = 16, seed: int = 1) -> NDArray[np.float32]:
    vectors = np.random.default_rng(seed).normal(size=(count, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def _encoded(index: Index, recipe: Recipe, documents: dict[str, str]) -> EncodedSegment:
    """A segment as training gets it: its centroids are not known yet."""
    record = write_documents(index, recipe, documents)
    names = EncodedSegment.__struct_fields__
    return EncodedSegment(**{name: getattr(record, name) for name in names})


def _error(sample: NDArray[np.float32], centroids: NDArray[np.float32]) -> float:
    """The mean squared distance of the vectors from their nearest centroids."""
    return float(((sample[:, None] - centroids) ** 2).sum(axis=2).min(axis=1).mean())


@given(tokens=st.integers(0, 10**12), more=st.integers(0, 10**12))
def test_more_tokens_never_get_fewer_centroids(tokens: int, more: int) -> None:
    """And no corpus gets more than the most."""
    assert 1 <= centroids_for(tokens) <= centroids_for(tokens + more) <= MAX_CENTROIDS


@given(tokens=st.integers(1, 10**12))
def test_the_number_of_centroids_is_the_power_of_two_below_eight_roots_of_the_tokens(tokens: int) -> None:
    """Never more than there are tokens, and twice as many would be too many."""
    count = centroids_for(tokens)
    assert count.bit_count() == 1
    assert count <= tokens
    assert count <= CENTROIDS_PER_ROOT_TOKEN * tokens**0.5
    assert 2 * count > min(CENTROIDS_PER_ROOT_TOKEN * tokens**0.5 - 1, tokens, MAX_CENTROIDS)


@pytest.mark.parametrize(("tokens", "count"), [(0, 1), (1, 1), (2, 2), (3, 2), (16, 16), (100, 64), (1_000_000, 4096)])
def test_centroids_of_known_sizes(tokens: int, count: int) -> None:
    """Small corpora by hand."""
    assert centroids_for(tokens) == count


def test_kmeans_is_the_same_for_the_same_vectors() -> None:
    """Bit for bit, in one process."""
    sample = _vectors(2000)
    np.testing.assert_array_equal(kmeans(sample, 64), kmeans(sample.copy(), 64))


def test_kmeans_moves_centroids_to_where_vectors_are() -> None:
    """Four clouds far apart: no vector is far from its centroid."""
    middles = np.eye(4, 16, dtype=np.float32) * 10
    sample = np.concatenate([middle + 0.1 * _vectors(200, seed=seed) for seed, middle in enumerate(middles)])
    trained = kmeans(sample, 16)
    assert trained.shape == (16, 16)
    assert trained.dtype == np.float32
    assert _error(sample, trained) < 0.02


def test_kmeans_is_better_than_vectors_at_random() -> None:
    """Training lowers the error by more than a little."""
    sample = _vectors(3000)
    assert _error(sample, kmeans(sample, 32)) < 0.9 * _error(sample, sample[:32])


@pytest.mark.parametrize(("count", "centroids"), [(1, 1), (2, 1), (2, 2), (5, 4), (8, 8)])
def test_kmeans_of_few_vectors_works(count: int, centroids: int) -> None:
    """As many centroids as vectors are the vectors themselves."""
    sample = _vectors(count)
    trained = kmeans(sample, centroids)
    assert trained.shape == (centroids, 16)
    assert np.isfinite(trained).all()
    if count == centroids:
        np.testing.assert_allclose(np.sort(trained, axis=0), np.sort(sample, axis=0), atol=1e-6)


def test_kmeans_of_equal_vectors_works() -> None:
    """A corpus that says one thing a hundred times."""
    trained = kmeans(np.repeat(_vectors(1), 100, axis=0), 32)
    assert np.isfinite(trained).all()


def test_kmeans_says_how_far_it_has_come() -> None:
    """One step for each iteration, and their number first."""
    steps: list[progress.Step] = []
    with progress.listening(steps.append):
        kmeans(_vectors(50), 4)
    assert steps[0].total == sum(step.advance for step in steps) == ITERATIONS


@pytest.mark.parametrize("text", ["harbour", "harbour harbour", " ".join(WORDS)])
def test_a_tiny_corpus_gets_a_codebook(index: Index, recipe: Recipe, text: str) -> None:
    """One token is enough, and its centroid is where it lies."""
    segment = _encoded(index, recipe, {"a": text})
    record = train_codebook(index.address, [segment], recipe.codec_record, DIM)
    tokens = len(text.split())
    assert (record.centroids, record.trained_on_tokens) == (centroids_for(tokens), tokens)
    centroids = read_codebook(index.files, record, DIM).centroids
    assert np.isfinite(centroids).all()
    if len(set(text.split())) == 1:
        arrays = np.load(index.files.path(segment.codes_file))
        vectors = recipe.codec.decompress_rotated(arrays["codes"], arrays["scales"])
        np.testing.assert_allclose(centroids, vectors[: len(centroids)], atol=0.005)


def test_a_codebook_is_trained_on_all_segments(index: Index, recipe: Recipe) -> None:
    """Each of eight words in a segment of its own gets a centroid, and the same run gives the same centroids."""
    segments = [_encoded(index, recipe, {word: word}) for word in WORDS]
    first, second = (train_codebook(index.address, segments, recipe.codec_record, DIM) for _ in range(2))
    assert (first.centroids, first.trained_on_tokens) == (8, 8)
    assert first.file.key != second.file.key
    books = [read_codebook(index.files, record, DIM) for record in (first, second)]
    np.testing.assert_array_equal(books[0].centroids, books[1].centroids)
    assert len(np.unique(books[0].centroids, axis=0)) == len(WORDS)


def test_a_codebook_keeps_how_far_text_lies_that_it_was_not_trained_on(
    index: Index, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two passages one is held out: its words lie as far from the other's as they do; nothing where it is little."""
    segment = _encoded(index, recipe, {"one": "harbour harbour", "two": "violin violin"})
    settings = (index.address, [segment], recipe.codec_record, DIM)
    monkeypatch.setattr("tasks.train_codebook.HELD_OUT_EVERY", 2)
    assert train_codebook(*settings).held_out_distance is None
    monkeypatch.setattr("tasks.train_codebook.LEAST_TOKENS", 2)
    expected = float(np.square(word_vector("harbour") - word_vector("violin")).sum())
    codebook = train_codebook(*settings)
    assert codebook.held_out_distance == pytest.approx(expected, abs=0.02)
    assert codebook.trained_on_segments == [segment.id]


def test_a_codebook_keeps_from_where_on_a_share_of_all_tokens_are_outliers(index: Index) -> None:
    """Of all tokens there are, those that it was trained on and those that it was not."""
    documents = random_documents(3, [[150]] * 20, 16)
    encoder = EncoderRecord(name="random", fingerprint="0" * 64, dim=16)
    recipe = make_vector_recipe(index, all_vectors(documents), bits=8, centroids=8, encoder=encoder)
    records = [write_vectors(index, recipe, part) for part in (documents[:5], documents[5:])]
    book = train_codebook(index.address, records, recipe.codec_record, 16)
    assigned = [assign_centroids(record, index.address, book, recipe.codec_record, 16) for record in records]
    outliers = [len(np.load(index.files.path(record.centroids_file))["outlier_scales"]) for record in assigned]
    assert sum(outliers) == pytest.approx(OUTLIER_SHARE * 3000, abs=2)
    assert min(outliers) > 0


def test_too_few_tokens_tell_nothing_of_outliers(index: Index, recipe: Recipe) -> None:
    """Where every token has a centroid of its own, all that comes later would be farther; so it is with equal ones."""
    segments = [_encoded(index, recipe, {word: word}) for word in WORDS]
    assert train_codebook(index.address, segments, recipe.codec_record, DIM).outlier_distance is None
    assert outlier_distance(np.zeros(5000, np.float32)) is None


def test_vectors_of_two_encoders_meet_in_no_codebook(index: Index, recipe: Recipe) -> None:
    """Neither are they trained on together, nor do those of one get the centroids of the other; errors name both."""
    segment = _encoded(index, recipe, {"one": "harbour"})
    foreign = msgspec.structs.replace(segment, encoder="letters")
    named = f"{recipe.encoder.fingerprint}.*letters|letters.*{recipe.encoder.fingerprint}"
    with pytest.raises(EncoderMismatch, match=named):
        train_codebook(index.address, [segment, foreign], recipe.codec_record, DIM)
    codebook = train_codebook(index.address, [segment], recipe.codec_record, DIM)
    assert codebook.encoder == recipe.encoder.fingerprint
    with pytest.raises(EncoderMismatch, match=named):
        assign_centroids(foreign, index.address, codebook, recipe.codec_record, DIM)


def test_a_trained_codebook_is_assigned_to_its_segments(index: Index, recipe: Recipe) -> None:
    """Every passage touches at least one centroid, and a passage of one word exactly one."""
    segment = _encoded(index, recipe, {"many": " ".join(WORDS), "one": "harbour harbour"})
    codebook = train_codebook(index.address, [segment], recipe.codec_record, DIM)
    record = assign_centroids(segment, index.address, codebook, recipe.codec_record, DIM)
    arrays = np.load(index.files.path(record.centroids_file))
    counts = np.diff(arrays["offsets"])
    assert (counts >= 1).all()
    assert counts[-1] == 1
    assert (arrays["ids"] < codebook.centroids).all()

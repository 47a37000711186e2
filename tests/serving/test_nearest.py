"""The nearest centroid: by a look at all of them, and where they are many by groups."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from index_format.codebook import Codebook
from serving import nearest
from serving.approximate import CodedCentroids
from serving.kernels.levels import Level, levels_here
from serving.nearest import GROUPED, NearestCentroids, groups_of, nearest_of_all
from tests.serving.vectors import random_vectors

DIM = 24
ENOUGH = 8 * groups_of(GROUPED)  # vectors, for which groups are made
every_level = pytest.mark.parametrize("level", levels_here(), ids=lambda level: level.name)


def _clustered(count: int, seed: int) -> NDArray[np.float32]:
    """Unit vectors around two hundred directions, as those of words are."""
    random = np.random.default_rng(seed)
    directions = np.random.default_rng(0).normal(size=(200, DIM))
    vectors = directions[random.integers(0, 200, count)] + random.normal(scale=0.6, size=(count, DIM))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def book() -> Codebook:
    """As few centroids as are put into groups."""
    return Codebook.of(_clustered(GROUPED, seed=1))


@every_level
@pytest.mark.parametrize(("dim", "centroids", "tokens"), [(8, 1, 3), (24, 7, 65), (128, 300, 64), (16, 40, 0)])
def test_the_nearest_centroid_is_hardly_farther_than_the_nearest(
    dim: int, centroids: int, tokens: int, level: Level
) -> None:
    """Rounding to eight bits may choose another one, but only where both are as good as equal."""
    random = np.random.default_rng(dim)
    book, vectors = random_vectors(random, centroids, dim), random_vectors(random, tokens, dim)
    found = nearest_of_all(vectors, CodedCentroids.of(Codebook.of(book)), level=level, threads=2)
    distances = ((vectors[:, None] - book[None]) ** 2).sum(axis=2)
    chosen = distances[np.arange(tokens), found] if tokens else np.zeros(0)
    np.testing.assert_allclose(chosen, distances.min(axis=1) if tokens else [], atol=0.05)


def test_by_groups_nearly_every_vector_finds_its_nearest_centroid(book: Codebook) -> None:
    """And those that do not find one that is hardly farther."""
    vectors, coded = _clustered(3000, seed=2), CodedCentroids.of(book)
    found, wanted = NearestCentroids(coded).find(vectors), nearest_of_all(vectors, coded)
    assert (found == wanted).mean() > 0.97
    farther = book.squared_distances(vectors, found).mean() / book.squared_distances(vectors, wanted).mean()
    assert 1 <= farther < 1.01


def test_a_vector_has_the_same_centroid_however_it_is_asked(book: Codebook) -> None:
    """Among many or, once there are groups, alone; by one thread or three; on every instruction level."""
    vectors, coded = _clustered(ENOUGH, seed=3), CodedCentroids.of(book)
    wanted = NearestCentroids(coded).find(vectors)
    for level in levels_here():
        for threads in (1, 3):
            asked = NearestCentroids(coded, threads=threads, level=level)
            np.testing.assert_array_equal(asked.find(vectors), wanted)
            np.testing.assert_array_equal(asked.find(vectors[7:8]), wanted[7:8])
            assert asked.find(vectors[:0]).tolist() == []


def test_a_few_vectors_look_at_all_centroids(book: Codebook) -> None:
    """Making groups would take longer."""
    vectors, coded = _clustered(ENOUGH - 1, seed=3), CodedCentroids.of(book)
    np.testing.assert_array_equal(NearestCentroids(coded).find(vectors), nearest_of_all(vectors, coded))


def test_more_vectors_than_are_looked_at_at_once_have_the_same_centroids(
    book: Codebook, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A block ends anywhere."""
    vectors, asked = _clustered(ENOUGH, seed=4), NearestCentroids(CodedCentroids.of(book))
    wanted = asked.find(vectors)
    monkeypatch.setattr(nearest, "_AT_ONCE", 333)
    np.testing.assert_array_equal(asked.find(vectors), wanted)


@given(st.integers(1, 64), st.integers(0, 2**32 - 1))
def test_a_look_at_all_groups_is_a_look_at_all_centroids(kinds: int, seed: int) -> None:
    """With few kinds of centroids most are equal, groups are empty, and the lowest id of equals is the one."""
    random = np.random.default_rng(seed)
    centroids = random_vectors(random, kinds, 8)[random.integers(0, kinds, 64)]  # 64: as many groups as probes
    vectors = np.concatenate([random_vectors(random, 40, 8), centroids[:5], np.zeros((1, 8), np.float32)])
    coded = CodedCentroids.of(Codebook.of(centroids))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nearest, "GROUPED", 64)
        patch.setattr(nearest, "_WORTH", 1)
        found = NearestCentroids(coded).find(vectors)
    np.testing.assert_array_equal(found, nearest_of_all(vectors, coded))

"""The rotation: nothing is lost, products stay, and what lay in few dimensions lies in many."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from index_format.codec import BITS, MAX_DIM, Codec
from index_format.errors import IndexCorrupt
from index_format.files import FileCache
from index_format.rotation import Rotation
from index_format.segment import read_codec, write_codec
from index_format.store import LocalStore
from index_format.verify_files import check_codec

any_dim = st.integers(1, MAX_DIM // 8).map(lambda eighth: 8 * eighth)


def random_vectors(count: int, dim: int, seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)


@given(dim=any_dim, count=st.integers(0, 5), seed=st.integers(0, 2**32 - 1))
def test_a_rotation_keeps_products_and_is_undone(dim: int, count: int, seed: int) -> None:
    """For any number of dimensions and vectors, none among them."""
    rotation, vectors = Rotation.drawn(dim), random_vectors(count, dim, seed)
    rotated = rotation.apply(vectors)
    np.testing.assert_allclose(rotated @ rotated.T, vectors @ vectors.T, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(rotation.undo(rotated), vectors, atol=1e-5)


def test_a_vector_is_rotated_to_the_same_bits_whatever_comes_with_it() -> None:
    """Also beyond the number that is rotated at once."""
    rotation, vectors = Rotation.drawn(384), random_vectors(2500, 384, 1)
    rotated = rotation.apply(vectors)
    for at in (0, 1023, 1024, 2499):
        assert rotation.apply(vectors[at : at + 1]).tobytes() == rotated[at : at + 1].tobytes()
    assert np.abs(rotation.undo(rotated) - vectors).max() < 1e-5


def test_as_many_dimensions_are_always_rotated_alike() -> None:
    """So that a build that begins again finds its finished shards, and two indexes of one encoder are coded alike."""
    first, second = Rotation.drawn(96), Rotation.drawn(96)
    assert (first.order.tobytes(), first.signs.tobytes()) == (second.order.tobytes(), second.signs.tobytes())
    assert sorted(first.order.tolist()) == list(range(96))
    assert set(first.signs.tolist()) == {-1, 1}


@pytest.mark.parametrize("dim", [128, 384])
def test_what_lies_in_few_dimensions_is_spread_over_all(dim: int) -> None:
    """No dimension varies four times as much as the mean; before, some did."""
    vectors = random_vectors(1000, dim, 2)
    vectors[:, 8:] *= 0.05
    spread = Rotation.drawn(dim).apply(vectors).var(axis=0)
    assert spread.max() / spread.mean() < 4 < vectors.var(axis=0).max() / vectors.var(axis=0).mean()


@pytest.mark.parametrize("bits", BITS[:3])
def test_codes_of_rotated_vectors_lose_less_where_dimensions_differ(bits: int) -> None:
    """As those of a PCA do, by powers of ten."""
    vectors = random_vectors(500, 128, 3) * np.geomspace(1, 0.1, 128, dtype=np.float32)
    mean = vectors.mean(axis=0)
    errors = [
        float(np.square(codec.decompress(*codec.compress(vectors)) - vectors).sum())
        for codec in (Codec(mean, bits), Codec.of(vectors, bits))
    ]
    assert errors[1] < 0.8 * errors[0]


@pytest.mark.parametrize(
    ("order", "sign", "problem"), [(0, 1, "order does not have each dimension"), (15, 3, "sign 0 is 3, not 1 or -1")]
)
def test_what_is_no_rotation_is_neither_read_nor_passed_over(
    tmp_path: Path, order: int, sign: int, problem: str
) -> None:
    """By a reader, whose scores would be wrong, nor by verify, which names it."""
    rotation = Rotation(np.arange(16, dtype=np.uint16), np.ones(16, np.int8))
    rotation.order[15], rotation.signs[0] = order, sign
    store = LocalStore(tmp_path)
    record = write_codec(store, Codec(np.zeros(16, np.float32), 4, rotation))
    with pytest.raises(IndexCorrupt, match="order must have each dimension once"):
        read_codec(FileCache(store), record, 16)
    (found,) = check_codec(tmp_path / record.file.key, 16)
    assert problem in found.text

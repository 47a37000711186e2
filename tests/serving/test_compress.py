"""Compression by the kernel: the very bits of the codec's own, whatever the processor and however it is asked."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from index_format.codec import BITS, LEAST_SCALE, Codec
from serving.compress import compress, compress_each
from serving.kernels.levels import Level, levels_here

LENGTHS = st.integers(0, 40)  # tokens: fewer than there are lanes, as many, and more
every_level = pytest.mark.parametrize("level", levels_here(), ids=lambda level: level.name)
every_width = pytest.mark.parametrize("bits", BITS)


def _vectors(tokens: int, dim: int, seed: int = 0) -> NDArray[np.float32]:
    """Of very different lengths, and one of zeros among them."""
    random = np.random.default_rng(seed)
    vectors = random.normal(size=(tokens, dim)) * 10 ** random.uniform(-6, 4, size=(tokens, 1))
    vectors[3:4] = 0
    return vectors.astype(np.float32)


def _assert_equal(codec: Codec, vectors: NDArray[np.float32], level: Level, threads: int) -> None:
    codes, scales = compress(codec, vectors, threads=threads, level=level)
    wanted_codes, wanted_scales = codec.compress(vectors)
    np.testing.assert_array_equal(codes, wanted_codes)
    np.testing.assert_array_equal(scales, wanted_scales)
    assert (codes.dtype, scales.dtype) == (np.uint8, np.float16)


@every_level
@every_width
@pytest.mark.parametrize("dim", [8, 24, 128, 384, 1024])
def test_codes_and_scales_are_those_of_the_codec(bits: int, dim: int, level: Level) -> None:
    """Bit for bit, of dimensions that are transformed as one block and as several."""
    codec = Codec.of(_vectors(50, dim, seed=1), bits)
    for tokens in (0, 1, level.lanes - 1, level.lanes, level.lanes + 1, 100):
        for threads in (1, 3):
            _assert_equal(codec, _vectors(tokens, dim), level, threads)


@every_level
@every_width
@given(data=st.data())
def test_any_vectors_have_the_codes_of_the_codec(bits: int, level: Level, data: st.DataObject) -> None:
    """Equal values, zeros and values between two levels among them, where the first of equally good steps is kept."""
    values = st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5, 2.0**-20, 3.0, 1e4]) | st.floats(-10, 10, width=32)
    rows = data.draw(st.lists(st.lists(values, min_size=8, max_size=8), max_size=20))
    vectors = np.array(rows, np.float32).reshape(-1, 8)
    _assert_equal(Codec.of(np.ones((1, 8), np.float32), bits), vectors, level, threads=1)


@every_width
def test_vectors_that_are_rotated_already_are_left_as_they_are(bits: int) -> None:
    """As centroids are."""
    codec = Codec(np.full(24, 0.25, np.float32), bits)
    for level in levels_here():
        _assert_equal(codec, _vectors(30, 24), level, threads=1)


def test_a_vector_at_the_mean_has_the_least_scale() -> None:
    """Nothing is divided by zero."""
    codec = Codec(np.zeros(16, np.float32), 4)
    _, scales = compress(codec, np.zeros((5, 16), np.float32))
    assert scales.tolist() == [float(LEAST_SCALE)] * 5


@given(st.lists(LENGTHS, min_size=1, max_size=6))
def test_passages_that_are_compressed_together_have_the_codes_of_each_alone(lengths: list[int]) -> None:
    """Those without a token, too."""
    codec, passages = Codec.of(_vectors(20, 16, seed=2), 4), [_vectors(length, 16, seed=length) for length in lengths]
    for (codes, scales), own in zip(compress_each(codec, passages, threads=2), passages, strict=True):
        np.testing.assert_array_equal(codes, codec.compress(own)[0])
        np.testing.assert_array_equal(scales, codec.compress(own)[1])


@pytest.mark.parametrize("shape", [(4, 8), (16,), (2, 2, 16)])
def test_vectors_of_other_dimensions_are_refused(shape: tuple[int, ...]) -> None:
    """The kernel would read what is not theirs."""
    with pytest.raises(ValueError, match=r"expected \[T, 16\], got"):
        compress(Codec(np.zeros(16, np.float32), 4), np.zeros(shape, np.float32))


def test_vectors_in_any_memory_order_are_taken() -> None:
    """Every other row of a matrix that lies transposed."""
    codec, vectors = Codec.of(_vectors(20, 16, seed=2), 4), np.asfortranarray(_vectors(40, 16))[::2]
    np.testing.assert_array_equal(compress(codec, vectors)[0], codec.compress(vectors)[0])

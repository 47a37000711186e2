"""The codec: what is packed comes back, and what is compressed stays close."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from index_format.codec import BITS, MAX_DIM, Codec, pack, unpack
from index_format.errors import InputError

dims = st.sampled_from([8, 16, 24, 128])
bits_of_any_codec = pytest.mark.parametrize("bits", BITS)


def unit_vectors(tokens: int, dim: int, seed: int = 0) -> NDArray[np.float32]:
    vectors = np.random.default_rng(seed).normal(size=(tokens, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def vectors_of(dim: int) -> st.SearchStrategy[NDArray[np.float32]]:
    values = st.floats(-1, 1, width=32)
    return hnp.arrays(np.float32, st.tuples(st.integers(1, 5), st.just(dim)), elements=values)


def relative_error(codec: Codec, vectors: NDArray[np.float32]) -> float:
    back = codec.decompress(*codec.compress(vectors))
    return float(np.linalg.norm(back - vectors) / np.linalg.norm(vectors - codec.mean))


@bits_of_any_codec
@given(dim=dims, tokens=st.integers(0, 5), seed=st.integers(0, 2**32 - 1))
def test_packed_codes_come_back(bits: int, dim: int, tokens: int, seed: int) -> None:
    """Unpack is the inverse of pack, in the promised number of bytes."""
    codes = np.random.default_rng(seed).integers(0, 2**bits, (tokens, dim)).astype(np.uint8)
    packed = pack(codes, bits)
    assert packed.shape == (tokens, dim * bits // 8)
    np.testing.assert_array_equal(unpack(packed, bits), codes)


@pytest.mark.parametrize(
    ("bits", "codes", "expected"),
    [
        (1, [0, 1, 0, 0, 1, 1, 0, 1], "b2"),
        (2, [0, 1, 2, 3, 3, 2, 1, 0], "782d"),
        (4, [0, 1, 2, 3, 12, 13, 14, 15], "c0d1e2f3"),
        (8, [0, 1, 2, 3, 252, 253, 254, 255], "00010203fcfdfeff"),
    ],
)
def test_the_first_plane_lies_in_the_lowest_bits(bits: int, codes: list[int], expected: str) -> None:
    """The worked bytes of SPEC §5.2."""
    assert pack(np.array([codes], np.uint8), bits).tobytes().hex() == expected


@bits_of_any_codec
@given(data=st.data(), dim=dims)
def test_no_token_is_further_off_than_half_the_widest_step(bits: int, data: st.DataObject, dim: int) -> None:
    """The error is at most that of the plainest choice: uniform steps that just cover the largest value."""
    vectors = data.draw(vectors_of(dim))
    codec = Codec(mean=np.full(dim, 0.05, np.float32), bits=bits)
    back = codec.decompress(*codec.compress(vectors))
    reach = np.abs(vectors - codec.mean).max(axis=1)
    half_step, scale_rounding, smallest_scale = reach / (2**bits - 1), reach * 2**-11, 2**-14
    error = np.sqrt(((back - vectors) ** 2).mean(axis=1))
    assert (error <= half_step + scale_rounding + smallest_scale).all()


@bits_of_any_codec
@given(data=st.data())
def test_every_scale_is_a_positive_normal_float16(bits: int, data: st.DataObject) -> None:
    """No scale is zero, subnormal or infinite, whatever the vector."""
    vectors = data.draw(vectors_of(8))
    _, scales = Codec(mean=np.zeros(8, np.float32), bits=bits).compress(vectors)
    assert (scales >= np.finfo(np.float16).tiny).all()
    assert np.isfinite(scales).all()


@bits_of_any_codec
def test_a_vector_equal_to_the_mean_comes_back_as_the_mean(bits: int) -> None:
    """The zero vector, and the mean itself, are no special case."""
    for mean in (np.zeros(16, np.float32), unit_vectors(1, 16)[0]):
        codec = Codec(mean=mean, bits=bits)
        codes, scales = codec.compress(mean[None])
        assert scales[0] > 0
        np.testing.assert_allclose(codec.decompress(codes, scales)[0], mean, atol=2**bits * 2**-14)


@bits_of_any_codec
def test_no_tokens_give_no_codes(bits: int) -> None:
    """Zero rows in, zero rows out, of the right width."""
    codec = Codec(mean=np.zeros(16, np.float32), bits=bits)
    codes, scales = codec.compress(np.zeros((0, 16), np.float32))
    assert codes.shape == (0, codec.row_bytes)
    assert codec.decompress(codes, scales).shape == (0, 16)


def test_error_shrinks_with_bits() -> None:
    """More bits keep more, on vectors like those of an encoder: about 60, 34, 10 and under 1 per cent are lost."""
    vectors = unit_vectors(500, 128)
    codecs = {bits: Codec(mean=vectors.mean(axis=0), bits=bits) for bits in BITS}
    errors = {bits: relative_error(codec, vectors) for bits, codec in codecs.items()}
    assert errors[1] < 0.65
    assert errors[2] < 0.40
    assert errors[4] < 0.12
    assert errors[8] < 0.01
    assert errors[8] < errors[4] < errors[2] < errors[1]


@bits_of_any_codec
def test_compressing_what_was_decompressed_loses_next_to_nothing(bits: int) -> None:
    """A second pass through the codec stays as close as the first rounding of the scale allows."""
    vectors = unit_vectors(200, 64)
    codec = Codec(mean=vectors.mean(axis=0), bits=bits)
    once = codec.decompress(*codec.compress(vectors))
    twice = codec.decompress(*codec.compress(once))
    assert np.linalg.norm(twice - once) <= 1.05 * np.linalg.norm(once - vectors)
    assert np.linalg.norm(twice - vectors) <= 1.5 * np.linalg.norm(once - vectors)


def test_each_token_is_coded_by_itself() -> None:
    """Codes do not depend on the batch that a token came in."""
    vectors = unit_vectors(50, 32)
    codec = Codec(mean=vectors.mean(axis=0), bits=4)
    codes, scales = codec.compress(vectors)
    for token in (0, 7, 49):
        own_codes, own_scales = codec.compress(vectors[token : token + 1])
        assert own_codes[0].tobytes() == codes[token].tobytes()
        assert own_scales[0] == scales[token]


@pytest.mark.parametrize(("dim", "bits"), [(16, 3), (16, 0), (12, 4), (0, 4), (MAX_DIM + 8, 4)])
def test_a_codec_outside_the_limits_is_refused(dim: int, bits: int) -> None:
    """Bits are 1, 2, 4 or 8; dimensions a multiple of 8 up to the limit."""
    with pytest.raises(InputError, match="expected"):
        Codec(mean=np.zeros(dim, np.float32), bits=bits)

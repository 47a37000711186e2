"""Token vectors to codes, with the bits of `Codec.compress`, on all cores and in a small part of its time.

A GPU makes vectors many times as fast as NumPy compresses them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from index_format.codec import Codec
from index_format.rotation import block_of
from serving.kernels import native
from serving.kernels.calls import address, aligned, in_threads
from serving.kernels.levels import Level, best_level

Compressed = tuple[NDArray[np.uint8], NDArray[np.float16]]
"""Packed codes uint8 [T, row_bytes] and scales float16 [T]."""


def compress(codec: Codec, vectors: NDArray[np.float32], *, threads: int = 1, level: Level | None = None) -> Compressed:
    """Token vectors float32 [T, D], all finite, to packed codes uint8 [T, row_bytes] and scales float16 [T]."""
    if vectors.ndim != 2 or vectors.shape[1] != codec.dim:
        raise ValueError(f"vectors: expected [T, {codec.dim}], got {list(vectors.shape)}.")
    level = level or best_level()
    kernel = native.compress_kernel(level, codec.bits)
    vectors = np.ascontiguousarray(vectors, np.float32)
    mean, (order, signs, block) = np.ascontiguousarray(codec.mean, np.float32), _rotation(codec)
    factor = np.array([1 / np.sqrt(block)], np.float32)
    codes = np.empty((len(vectors), codec.row_bytes), np.uint8)
    scales = np.empty(len(vectors), np.float32)

    def work(first: int, last: int) -> None:
        room = aligned(np.empty((codec.dim, level.lanes), np.float32))
        kernel(
            last - first,
            codec.dim,
            block.bit_length() - 1,
            address(vectors[first:]),
            address(order),
            address(signs),
            address(factor),
            address(mean),
            address(room),
            codec.row_bytes,
            address(codes[first:]),
            address(scales[first:]),
        )

    in_threads(work, len(vectors), threads)
    return codes, scales.astype(np.float16)


def compress_each(codec: Codec, passages: Sequence[NDArray[np.float32]], *, threads: int = 1) -> list[Compressed]:
    """The codes and scales of each of some passages, whose token vectors float32 [T, D] are compressed at once."""
    codes, scales = compress(codec, np.concatenate(passages), threads=threads)
    cuts = np.cumsum([len(one) for one in passages])[:-1]
    return list(zip(np.split(codes, cuts), np.split(scales, cuts), strict=True))


def _rotation(codec: Codec) -> tuple[NDArray[np.uint16], NDArray[np.float32], int]:
    """Order, signs and block: those that change nothing where vectors are rotated already."""
    if codec.rotation is None:
        return np.arange(codec.dim, dtype=np.uint16), np.ones(codec.dim, np.float32), 1
    order, signs = codec.rotation.order, codec.rotation.signs
    return np.ascontiguousarray(order), signs.astype(np.float32), block_of(codec.dim)

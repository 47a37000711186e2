"""Token vectors to a few bits a dimension and back (SPEC §5): the reference that every kernel must equal.

A token vector is rotated (rotation.py) to x and centred on the index's mean, then each dimension becomes one of
2^bits uniform levels on a scale of its own token:  x ≈ mean + scale · (code − (2^bits − 1) / 2).
Codes are direct, not residuals of a centroid, so a new codebook never touches them
(docs/decisions/0001-direct-codes.md has the measurements and the price).

Uniform levels with a scale for each token, after a rotation, follow extended RaBitQ (Gao et al. 2025).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from index_format.errors import InputError
from index_format.rotation import Rotation

BITS = (1, 2, 4, 8)
MAX_DIM = 1024

# The step, as a share of the one that just covers the largest dimension. Smaller steps clip the largest
# values and resolve the rest better; the best of these is kept for each token.
STEP_SHARES = {1: (1.0,), 2: (0.8, 0.65, 0.55, 0.45), 4: (1.0, 0.9, 0.8, 0.7), 8: (1.0,)}
LEAST_SCALE = np.float32(2**-14)  # the smallest normal float16, so that no scale is zero or subnormal


@dataclass(frozen=True, slots=True)
class Codec:
    """How the token vectors of a version are coded; another codec comes with all segments anew.

    mean: float32 [D], of the rotated vectors, subtracted before coding. bits: 1, 2, 4 or 8 for each dimension.
    rotation: what vectors pass before; none where they are rotated already, as centroids are.
    """

    mean: NDArray[np.float32]
    bits: int
    rotation: Rotation | None = None

    def __post_init__(self) -> None:
        if self.bits not in BITS:
            raise InputError(f"bits: expected one of {list(BITS)}, got {self.bits}.")
        if self.mean.ndim != 1 or not 8 <= self.dim <= MAX_DIM or self.dim % 8:
            raise InputError(f"dimensions: expected a multiple of 8 from 8 to {MAX_DIM}, got {list(self.mean.shape)}.")

    @staticmethod
    def of(sample: NDArray[np.float32], bits: int) -> Codec:
        """The codec of a new index, centred on token vectors float32 [n, D] that are like those to come."""
        rotation = Rotation.drawn(sample.shape[1])
        return Codec(rotation.apply(sample.mean(axis=0, dtype=np.float64).astype(np.float32)[None])[0], bits, rotation)

    @property
    def dim(self) -> int:
        return len(self.mean)

    @property
    def row_bytes(self) -> int:
        """Packed bytes of one token."""
        return self.dim * self.bits // 8

    def compress(self, vectors: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.float16]]:
        """Token vectors float32 [T, D] to packed codes uint8 [T, row_bytes] and scales float16 [T]."""
        centred = self.rotated(vectors) - self.mean
        half = np.float32((2**self.bits - 1) / 2)
        reach = np.abs(centred).max(axis=1, initial=0.0) / half
        best_levels = np.zeros_like(centred)
        best_scale = np.zeros(len(vectors), np.float32)
        best_error = np.full(len(vectors), np.inf, np.float32)
        for share in STEP_SHARES[self.bits]:
            step = np.maximum(reach * np.float32(share), LEAST_SCALE)
            levels = np.clip(np.floor(centred / step[:, None] + half + 0.5), 0, 2 * half) - half
            # The scale that minimises the error for these levels: <x, levels> / <levels, levels>.
            energy, overlap = _summed(levels * levels), _summed(centred * levels)
            error = -(overlap * overlap) / energy  # squared error less the constant |x|²
            better = error < best_error
            best_error[better] = error[better]
            best_scale[better] = (overlap / energy)[better]
            best_levels[better] = levels[better]
        codes = (best_levels + half).astype(np.uint8)
        return pack(codes, self.bits), np.maximum(best_scale, LEAST_SCALE).astype(np.float16)

    def decompress(self, codes: NDArray[np.uint8], scales: NDArray[np.float16]) -> NDArray[np.float32]:
        """Packed codes uint8 [T, row_bytes] and scales float16 [T] to token vectors float32 [T, D]."""
        vectors = self.decompress_rotated(codes, scales)
        return vectors if self.rotation is None else self.rotation.undo(vectors)

    def rotated(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Vectors float32 [n, D], of tokens or of a query, as codes and centroids have them."""
        return vectors if self.rotation is None else self.rotation.apply(vectors)

    def decompress_rotated(self, codes: NDArray[np.uint8], scales: NDArray[np.float16]) -> NDArray[np.float32]:
        """The same as `decompress`, still rotated: what centroids are trained on and compared with."""
        half = np.float32((2**self.bits - 1) / 2)
        levels = unpack(codes, self.bits).astype(np.float32) - half
        return np.asarray(self.mean + levels * scales.astype(np.float32)[:, None], np.float32)


def _summed(products: NDArray[np.float32]) -> NDArray[np.float32]:
    """Sums over dimensions, float32 [T, D] to [T], in their order: the same bits on every processor."""
    sums: NDArray[np.float32] = np.add.accumulate(products, axis=1)[:, -1]
    return sums


def pack(codes: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Codes uint8 [T, D] below 2^bits to bytes [T, D·bits/8].

    Byte j holds dimensions j, j+W, j+2W, ... (W bytes a row), the first in its lowest bits: unpacking
    one plane of bits gives W neighbouring dimensions at once, which is what vector units want.
    """
    planes = 8 // bits
    width = codes.shape[1] // planes
    packed = np.zeros((len(codes), width), np.uint8)
    for plane in range(planes):
        packed |= codes[:, plane * width : (plane + 1) * width] << np.uint8(plane * bits)
    return packed


def unpack(packed: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """The inverse of `pack`: bytes [T, W] to codes uint8 [T, W·8/bits]."""
    mask = np.uint8(2**bits - 1)
    return np.concatenate([(packed >> np.uint8(plane * bits)) & mask for plane in range(8 // bits)], axis=1)

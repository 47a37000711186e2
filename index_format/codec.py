"""Token vectors to a few bits a dimension and back (SPEC §5): the reference that every kernel must equal.

A token vector x is centred on the index's mean, then each dimension becomes one of 2^bits uniform levels
on a scale of its own token:  x ≈ mean + scale · (code − (2^bits − 1) / 2).
Codes are direct, not residuals of a centroid, so a new codebook never touches them
(docs/decisions/0001-direct-codes.md has the measurements and the price).

Uniform levels with a scale for each token follow extended RaBitQ (Gao et al. 2025) without the rotation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from index_format.errors import InputError

BITS = (1, 2, 4, 8)
MAX_DIM = 1024

# The step, as a share of the one that just covers the largest dimension. Smaller steps clip the largest
# values and resolve the rest better; the best of these is kept for each token.
_STEP_SHARES = {1: (1.0,), 2: (0.8, 0.65, 0.55, 0.45), 4: (1.0, 0.9, 0.8, 0.7), 8: (1.0,)}
_TINY = np.float32(2**-14)  # the smallest normal float16, so that no scale is zero or subnormal


@dataclass(frozen=True, slots=True)
class Codec:
    """How the token vectors of one index are coded; fixed for the life of the index.

    mean: float32 [D], subtracted before coding. bits: 1, 2, 4 or 8 for each dimension.
    """

    mean: NDArray[np.float32]
    bits: int

    def __post_init__(self) -> None:
        if self.bits not in BITS:
            raise InputError(f"bits: expected one of {list(BITS)}, got {self.bits}.")
        if self.mean.ndim != 1 or not 8 <= self.dim <= MAX_DIM or self.dim % 8:
            raise InputError(f"dimensions: expected a multiple of 8 from 8 to {MAX_DIM}, got {list(self.mean.shape)}.")

    @property
    def dim(self) -> int:
        return len(self.mean)

    @property
    def row_bytes(self) -> int:
        """Packed bytes of one token."""
        return self.dim * self.bits // 8

    def compress(self, vectors: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.float16]]:
        """Token vectors float32 [T, D] to packed codes uint8 [T, row_bytes] and scales float16 [T]."""
        centred = vectors - self.mean
        half = np.float32((2**self.bits - 1) / 2)
        reach = np.abs(centred).max(axis=1, initial=0.0) / half
        best_levels = np.zeros_like(centred)
        best_scale = np.zeros(len(vectors), np.float32)
        best_error = np.full(len(vectors), np.inf, np.float32)
        for share in _STEP_SHARES[self.bits]:
            step = np.maximum(reach * np.float32(share), _TINY)
            levels = np.clip(np.floor(centred / step[:, None] + half + 0.5), 0, 2 * half) - half
            # The scale that minimises the error for these levels: <x, levels> / <levels, levels>.
            energy = np.einsum("td,td->t", levels, levels)
            overlap = np.einsum("td,td->t", centred, levels)
            error = -(overlap * overlap) / energy  # squared error less the constant |x|²
            better = error < best_error
            best_error[better] = error[better]
            best_scale[better] = (overlap / energy)[better]
            best_levels[better] = levels[better]
        codes = (best_levels + half).astype(np.uint8)
        return pack(codes, self.bits), np.maximum(best_scale, _TINY).astype(np.float16)

    def decompress(self, codes: NDArray[np.uint8], scales: NDArray[np.float16]) -> NDArray[np.float32]:
        """Packed codes uint8 [T, row_bytes] and scales float16 [T] to token vectors float32 [T, D]."""
        half = np.float32((2**self.bits - 1) / 2)
        levels = unpack(codes, self.bits).astype(np.float32) - half
        return np.asarray(self.mean + levels * scales.astype(np.float32)[:, None], np.float32)


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

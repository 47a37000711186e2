"""A fixed rotation of token vectors before they are coded (SPEC §5.4).

Uniform levels serve all dimensions of a token alike. Where an encoder puts much in few dimensions, as a PCA or a
Matryoshka model does, these levels are spent badly; after a rotation every dimension has a little of each. Products
do not change by it, so a query is rotated in the same way and nothing else of a search knows of it.

A randomised Hadamard transform, as in QuIP# (Tseng et al. 2024): additions alone, in a fixed order, so that a vector is
rotated to the same bits whatever the processor, the batch or the number of threads.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_SEED = 20
_AT_ONCE = 1024  # token vectors, so that they stay in a core's cache


@dataclass(frozen=True, slots=True)
class Rotation:
    """Dimensions are put into another order, some change their sign, and each block of them is transformed.

    order: uint16 [D], a permutation. signs: int8 [D], each 1 or -1.
    """

    order: NDArray[np.uint16]
    signs: NDArray[np.int8]

    @staticmethod
    def drawn(dim: int) -> Rotation:
        """The rotation of a new index: always the same for as many dimensions."""
        random = np.random.default_rng(_SEED)
        order = random.permutation(dim).astype(np.uint16)
        return Rotation(order, random.choice(np.array([-1, 1], np.int8), dim))

    def apply(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Vectors float32 [T, D], rotated."""
        signs = self.signs.astype(np.float32)[:, None]
        rotated = np.empty(vectors.shape, np.float32)
        for first in range(0, len(vectors), _AT_ONCE):
            own = slice(first, first + _AT_ONCE)
            rotated[own] = _transformed(vectors[own].T[self.order] * signs).T
        return rotated

    def undo(self, rotated: NDArray[np.float32]) -> NDArray[np.float32]:
        """What `apply` made of vectors, float32 [T, D], as those vectors."""
        signs = self.signs.astype(np.float32)[:, None]
        vectors = np.empty(rotated.shape, np.float32)
        for first in range(0, len(rotated), _AT_ONCE):
            own = slice(first, first + _AT_ONCE)
            vectors[own, self.order] = (_transformed(rotated[own].T.copy()) * signs).T
        return vectors


def block_of(dim: int) -> int:
    """How many dimensions are transformed together: the greatest power of two that divides D."""
    return dim & -dim


def _transformed(columns: NDArray[np.float32]) -> NDArray[np.float32]:
    """The Hadamard transform of each block of dimensions, float32 [D, T], in place. It undoes itself."""
    dim = len(columns)
    block = block_of(dim)
    width = 1
    while width < block:
        pairs = columns.reshape(dim // (2 * width), 2, -1)
        sums = pairs[:, 0] + pairs[:, 1]
        np.subtract(pairs[:, 0], pairs[:, 1], out=pairs[:, 1])
        pairs[:, 0] = sums
        width *= 2
    columns *= np.float32(1 / np.sqrt(block))
    return columns

"""The score of a passage as SPEC §6 defines it: obviously right, slow, and what every fast path must equal."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from index_format.codec import Codec, unpack


def exact_maxsim(query: NDArray[np.float32], passage: NDArray[np.float32]) -> float:
    """MaxSim of float vectors, query [Q, D] and passage [T, D] (Khattab and Zaharia, 2020)."""
    return float((query @ passage.T).max(axis=1).sum())


def coded_maxsim(
    query: NDArray[np.float32], codec: Codec, codes: NDArray[np.uint8], scales: NDArray[np.float16]
) -> np.float32:
    """MaxSim of a query float32 [Q, D] with one passage's packed codes uint8 [T, row_bytes] and scales float16 [T]."""
    levels_TD = 2 * unpack(codes, codec.bits).astype(np.int64) - (2**codec.bits - 1)
    query = codec.rotated(query)
    offsets = query @ codec.mean
    total = np.float32(0)
    for vector, offset in zip(query, offsets, strict=True):
        scale = np.abs(vector).max() / np.float32(127) or np.float32(1)
        query_levels = np.rint(vector / scale).astype(np.int64)
        products = (levels_TD @ query_levels).astype(np.float32) * scales.astype(np.float32)
        total += products.max() * (scale * np.float32(0.5)) + offset
    return total

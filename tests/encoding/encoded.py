"""The vectors of texts, all of them at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from encoding.encoder import Encoder


def encode_all(encoder: Encoder, texts: Sequence[str]) -> list[NDArray[np.float32]]:
    """The vectors of each text, in the order of the texts, each of which has its own exactly once."""
    found = [pair for batch in encoder.encode(texts) for pair in batch]
    assert sorted(position for position, _ in found) == list(range(len(texts)))
    return [vectors for _, vectors in sorted(found, key=lambda pair: pair[0])]

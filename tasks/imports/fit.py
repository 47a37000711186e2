"""Whether vectors of a peer's index are those that an encoder makes of its texts.

An index does not keep what made it for certain: a name at best, and nothing of pooling or of what was left out. So
some passages are encoded again, and each vector is compared with the nearest of those.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from encoding.encoder import Encoder
from index_format.errors import EncoderMismatch
from tasks.imports.peer import PeerPassage

SAMPLE = 32
LEAST_LIKENESS = 0.7  # docs/decisions/0022 has the figures


@dataclass(frozen=True, slots=True)
class Fit:
    """likeness: the median over passages of the mean cosine. same_counts: share of passages with as many vectors."""

    likeness: float
    same_counts: float


def measure_fit(
    encoder: Encoder, vectors: list[NDArray[np.float32]], passages: list[PeerPassage], pool_factor: int
) -> Fit:
    """Compare vectors of passages, float32 [T, D] each, with those that the encoder makes of their texts."""
    made: dict[int, NDArray[np.float32]] = {}
    for batch in encoder.encode([one.text or "" for one in passages], pool_factor):
        made |= dict(batch)
    likeness = [float((own @ made[at].T).max(axis=1).mean()) for at, own in enumerate(vectors)]
    same = [len(own) == len(made[at]) for at, own in enumerate(vectors)]
    return Fit(float(np.median(likeness)), float(np.mean(same)))


def refuse_misfit(fit: Fit, encoder: Encoder, where: str) -> None:
    """Raise EncoderMismatch when the vectors of an index are not this encoder's."""
    if fit.likeness < LEAST_LIKENESS:
        raise EncoderMismatch(
            f"{where}: its vectors are not those that {encoder.checkpoint.name} makes of its texts (likeness "
            f"{fit.likeness:.2f}, expected at least {LEAST_LIKENESS}): another encoder made them (--encoder), or texts "
            "and vectors are not in the same order; nothing was imported."
        )

"""Arrays to a device and vectors back from it, without waiting for either."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from index_format.errors import InputError


def to_device(array: NDArray[np.generic], device: torch.device) -> torch.Tensor:
    """An array on a device. From pinned memory, because a copy from other memory waits for the work before it."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


class StartedVectors:
    """Vectors that a device is at work on, on their way to the processor's memory."""

    def __init__(self, rows: torch.Tensor, counts: Sequence[int] | torch.Tensor, folder: Path) -> None:
        """rows: float32 [n, D] of all texts, one below the other. folder: the model's.

        counts: how many rows are each text's; or, where each has as many as another, which of them are vectors,
        bool [texts, places].
        """
        self._counts = _on_the_way(counts) if isinstance(counts, torch.Tensor) else counts
        self._folder = folder
        self._rows, self._finite = _on_the_way(rows), _on_the_way(torch.isfinite(rows).all())
        self._arrived = torch.cuda.Event() if rows.is_cuda else None  # type: ignore[no-untyped-call]
        if self._arrived is not None:
            self._arrived.record()

    def vectors(self) -> list[NDArray[np.float32]]:
        """The vectors of each text, float32 [vectors, D], once they are here.

        Raises InputError when one is not finite.
        """
        if self._arrived is not None:
            self._arrived.synchronize()
        if not self._finite:
            raise InputError(
                f"encoder: {self._folder} makes vectors that are not numbers (NaN or infinity) of some text. Its "
                "weights are damaged, or too large for the precision of this device."
            )
        found, counts = self._rows.numpy(), self._counts
        if isinstance(counts, torch.Tensor):
            found, counts = found[counts.flatten().numpy()], counts.sum(dim=1).tolist()
        elif self._arrived is not None:
            found = found.copy()  # pinned memory is scarce, and goes back at once
        return np.split(found, np.cumsum(counts)[:-1])


def _on_the_way(tensor: torch.Tensor) -> torch.Tensor:
    """A copy in the processor's memory, which may not be complete yet; what is there already, as it is."""
    if not tensor.is_cuda:
        return tensor
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)

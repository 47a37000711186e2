"""A GPU for this process alone: of all that encode on a machine, one process uses a GPU at a time.

The claim is a lock on a file, which the kernel lets go when its process ends, however it ends. So no killed run
keeps a GPU from the next, not for a second, which no lease could promise.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import torch

_LOOK_SECONDS = 0.5


class Places:
    """Places on this machine by name, each for one process at a time."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self._paths = [folder / f"colonnade-{name}.lock" for name in names]
        self._held: tuple[int, int] | None = None
        self._taking = threading.Lock()

    def take(self) -> int:
        """The number of the place that is ours now; waits until one is free."""
        with self._taking:
            while self._held is None:
                for number, path in enumerate(self._paths):
                    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
                    try:
                        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    except BlockingIOError:
                        os.close(handle)
                        continue
                    self._held = (number, handle)
                    return number
                time.sleep(_LOOK_SECONDS)
            return self._held[0]

    def leave(self) -> None:
        """Let the place go."""
        with self._taking:
            if self._held is not None:
                os.close(self._held[1])
                self._held = None


def _gpus() -> list[str]:
    # By what the hardware calls them: CUDA_VISIBLE_DEVICES numbers them anew in each process.
    return [f"gpu-{torch.cuda.get_device_properties(at).uuid}" for at in range(torch.cuda.device_count())]


_places = Places(Path(tempfile.gettempdir()), _gpus())


def claim_gpu() -> None:
    """Wait for a GPU that no other encoder of this machine uses, and let this thread use it. Nothing without GPUs."""
    if torch.cuda.is_available():
        torch.cuda.set_device(_places.take())


def release_gpu() -> None:
    """Let other encoders have the GPU."""
    _places.leave()

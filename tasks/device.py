"""A GPU for this process alone: of all that encode on a machine, one process uses a GPU at a time.

The claim is a lock on a file, which the kernel lets go when its process ends, however it ends. So no killed run
keeps a GPU from the next, not for a second, which no lease could promise. Containers see each other's locks where
they share the folder for temporary files.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import torch

_LOOK_SECONDS = 0.5


class Places:
    """Places on this machine by name, each for one process at a time. `find` names them when one is first wanted."""

    def __init__(self, folder: Path, find: Callable[[], Sequence[str]]) -> None:
        self._folder, self._find = folder, find
        self._number: int | None = None
        self._handle: int | None = None
        self._users = 0
        self._guard = threading.Lock()

    @contextmanager
    def kept(self) -> Iterator[None]:
        """What is taken in this block stays ours until its end; the last of blocks that overlap lets it go."""
        with self._guard:
            self._users += 1
        try:
            yield
        finally:
            with self._guard:
                self._users -= 1
                if not self._users and self._handle is not None:
                    os.close(self._handle)
                    self._handle = None

    def take(self) -> int:
        """The number of the place that is ours now; waits until one is free.

        It is the same for the life of the process: what was loaded there, such as the weights of a model, stays there.
        """
        while (number := self._taken()) is None:
            time.sleep(_LOOK_SECONDS)
        return number

    def _taken(self) -> int | None:
        with self._guard:
            if self._handle is not None:
                return self._number
            for number, name in enumerate(self._find()):
                if self._number in (None, number):
                    handle = _open(self._folder / f"colonnade-{name}.lock")
                    try:
                        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    except BlockingIOError:
                        os.close(handle)
                        continue
                    self._number, self._handle = number, handle
                    return number
            return None


def _open(path: Path) -> int:
    """A handle of a file that every user may lock, for which reading is enough.

    Made only where it is not there: in a folder like /tmp, Linux lets nobody create what another user has created.
    """
    while True:
        with suppress(FileNotFoundError):
            return os.open(path, os.O_RDONLY)
        with suppress(FileExistsError):
            handle = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL)
            os.fchmod(handle, 0o444)  # whatever the umask
            return handle


def _gpus() -> list[str]:
    # By what the hardware calls them: CUDA_VISIBLE_DEVICES numbers them anew in each process.
    return [f"gpu-{torch.cuda.get_device_properties(at).uuid}" for at in range(torch.cuda.device_count())]


_places = Places(Path(tempfile.gettempdir()), _gpus)
_for_life = ExitStack()


@contextmanager
def gpu_kept() -> Iterator[None]:
    """A GPU that is claimed in this block stays this process's until its end, whatever blocks are in it."""
    with _places.kept():
        yield


@contextmanager
def gpu_claimed(device: str | None = None) -> Iterator[None]:
    """Wait for a GPU that no other encoder of this machine uses, and let this thread use it in the block.

    Nothing without GPUs, nor where the device is "cpu".
    """
    with _places.kept():
        if device != "cpu" and torch.cuda.is_available():
            torch.cuda.set_device(_places.take())
        yield


def begin_encoder(processes: int) -> None:
    """Make this process one of so many that encode on this machine: it takes its share of the processor's threads,
    and keeps the GPU that it claims."""
    torch.set_num_threads(max(1, torch.get_num_threads() // processes))
    _for_life.enter_context(gpu_kept())


def processor_share() -> int:
    """How many threads this process may use: of those of the machine its share, where several encode."""
    return torch.get_num_threads()

"""How far long work has come, told to whoever listens: the terminal, and the page of a flow run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

Stage = Literal["load", "import", "encode", "codebook", "centroids", "publish"]


@dataclass(frozen=True, slots=True)
class Step:
    """Some progress of one stage. `total` is set when it becomes known; both count the stage's own unit."""

    stage: Stage
    advance: int = 0
    total: int | None = None


Listener = Callable[[Step], None]
_listeners: list[Listener] = []
_lock = threading.Lock()


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Tell `listener` every step of this process's work inside the block."""
    with _lock:
        _listeners.append(listener)
    try:
        yield
    finally:
        with _lock:
            _listeners.remove(listener)


def report(stage: Stage, advance: int = 0, total: int | None = None) -> None:
    """Say that a stage came `advance` units further, or how many units it will take."""
    for listener in tuple(_listeners):
        listener(Step(stage, advance, total))

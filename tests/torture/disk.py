"""The calls of a `LocalStore` to the operating system, seen one by one, and failed or recorded.

Python's own calls are seen: open, write, fsync, link, unlink, mkdir, scandir and file reads below one directory.
What pyarrow and mmap read is not.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock


@dataclass(frozen=True, slots=True)
class Call:
    """A call that is about to be made; `data` is what a write writes, `target` the new name of a link."""

    name: str
    path: Path
    data: bytes = b""
    target: Path | None = None


Hook = Callable[[Call], int | None]
"""Sees each call first. May raise in its place, or say how many bytes a write takes."""


def in_memory() -> str | None:
    """A place where copies are quick: what these tortures do never has to reach a disk."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


@contextlib.contextmanager
def watched(root: Path, hook: Hook) -> Iterator[None]:
    """Show every call below `root` to `hook` for the length of the block."""
    paths: dict[int, Path] = {}
    real = {name: getattr(os, name) for name in ("open", "write", "fsync", "link", "unlink", "mkdir", "scandir")}

    def inside(path: Any) -> bool:
        return not isinstance(path, int) and Path(os.fspath(path)).is_relative_to(root)

    def on_open(path: Any, flags: int, *more: Any, **named: Any) -> int:
        if inside(path):
            hook(Call("create" if flags & os.O_CREAT else "open", Path(path)))
        descriptor: int = real["open"](path, flags, *more, **named)
        paths.pop(descriptor, None)
        if inside(path):
            paths[descriptor] = Path(path)
        return descriptor

    def on_write(descriptor: int, data: Any) -> int:
        limit = hook(Call("write", paths[descriptor], bytes(data))) if descriptor in paths else None
        written: int = real["write"](descriptor, data if limit is None else data[:limit])
        return written

    def on_fsync(descriptor: int) -> None:
        if descriptor in paths:
            hook(Call("fsync", paths[descriptor]))
        else:
            real["fsync"](descriptor)  # below the root nothing reaches the disk: what is lost is the model's to say

    def on_link(source: Any, target: Any, **named: Any) -> None:
        if inside(target):
            hook(Call("link", Path(source), target=Path(target)))
        real["link"](source, target, **named)

    def on_path(name: str) -> Callable[..., Any]:
        def on_call(path: Any, *more: Any, **named: Any) -> Any:
            if inside(path):
                hook(Call(name, Path(path)))
            return real[name](path, *more, **named)

        return on_call

    opened = io.open

    def on_read(path: Any, mode: str = "r", *more: Any, **named: Any) -> Any:
        if inside(path):
            hook(Call("read", Path(path)))
        return opened(path, mode, *more, **named)

    with contextlib.ExitStack() as stack:
        patches = {"open": on_open, "write": on_write, "fsync": on_fsync, "link": on_link}
        patches |= {name: on_path(name) for name in ("unlink", "mkdir", "scandir")}
        for name, replacement in patches.items():
            stack.enter_context(mock.patch.object(os, name, replacement))
        stack.enter_context(mock.patch.object(io, "open", on_read))
        yield

"""What calls of kernels take: addresses of arrays that begin where registers like it, and threads."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Value = TypeVar("Value", bound=np.generic)
CACHE_LINE = 64
_pool = ThreadPoolExecutor(thread_name_prefix="colonnade-kernels")


def in_threads(work: Callable[[int, int], None], count: int, threads: int) -> None:
    """Call `work(first, last)` over parts of range(count), each in a thread of its own."""
    if threads <= 1 or count < threads:
        return work(0, count)
    edges = [count * part // threads for part in range(threads + 1)]
    rest = [_pool.submit(work, *span) for span in pairwise(edges[1:])]
    work(edges[0], edges[1])
    for part in rest:
        part.result()
    return None


def padded(values: NDArray[Value], length: int) -> NDArray[Value]:
    """The values and zeros after them, up to `length` along the first axis."""
    made = np.zeros((length, *values.shape[1:]), values.dtype)
    made[: len(values)] = values
    return made


def aligned(values: NDArray[Value]) -> NDArray[Value]:
    """A copy in C order that begins at a cache line, so that no register is loaded from two of them."""
    room = np.empty(values.nbytes + CACHE_LINE, np.uint8)
    start = -room.ctypes.data % CACHE_LINE
    copy = room[start : start + values.nbytes].view(values.dtype).reshape(values.shape)
    copy[...] = values
    return copy


def address(array: NDArray[np.generic]) -> int:
    """Where an array in C order begins; it must live as long as the call."""
    return array.ctypes.data

"""Which texts go through the model together, and what happens when they are too many for its memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from index_format.errors import InputError

Item = TypeVar("Item")
Text = TypeVar("Text")
Result = TypeVar("Result")


def batches_by_length(lengths: Sequence[int], most_tokens: int) -> Iterator[list[int]]:
    """Positions in batches of neighbouring lengths whose padded size stays within `most_tokens` (one text at least)."""
    batch: list[int] = []
    for position in sorted(range(len(lengths)), key=lambda one: (lengths[one], one)):
        if batch and (len(batch) + 1) * lengths[position] > most_tokens:
            yield batch
            batch = []
        batch.append(position)
    if batch:
        yield batch


def windows_by_length(lengths: Sequence[int], most: int) -> Iterator[list[int]]:
    """Positions from the shortest to the longest, in runs of at most `most` together (one at least)."""
    window: list[int] = []
    filled = 0
    for position in sorted(range(len(lengths)), key=lambda one: (lengths[one], one)):
        if window and filled + lengths[position] > most:
            yield window
            window, filled = [], 0
        window.append(position)
        filled += lengths[position]
    if window:
        yield window


def one_ahead(items: Iterator[Item]) -> Iterator[Item]:
    """The same items, each made in a thread while the caller is busy with the one before."""
    with ThreadPoolExecutor(1, "one-ahead") as thread:
        coming = thread.submit(lambda: next(items, None))
        while (item := coming.result()) is not None:
            coming = thread.submit(lambda: next(items, None))
            yield item


def halving(work: Callable[[Sequence[Text]], list[Result]], texts: Sequence[Text]) -> list[Result]:
    """The results of `work` for all texts, in halves and halves of halves where they do not fit the memory at once."""
    if len(texts) == 1:
        return _alone(work, texts)
    try:
        return work(texts)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    # Outside the handler: its traceback holds the tensors of the batch that failed.
    torch.cuda.empty_cache()
    middle = len(texts) // 2
    return halving(work, texts[:middle]) + halving(work, texts[middle:])


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error of torch means that memory ran out; on a CPU it is known by its text alone."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def _alone(work: Callable[[Sequence[Text]], list[Result]], texts: Sequence[Text]) -> list[Result]:
    try:
        return work(texts)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise InputError(
            "encoder: memory ran out with a single passage. Build with a smaller --passage-tokens, or free memory."
        ) from error

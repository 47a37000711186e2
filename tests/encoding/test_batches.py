"""Which texts go through the model together, and what happens when memory runs out."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from encoding.batches import batches_by_length, halving, one_ahead, windows_by_length
from encoding.encoder import Encoder
from encoding.inputs import TokenizedText
from encoding.model import TokenModel
from encoding.transfers import StartedVectors
from index_format.errors import InputError
from tests.encoding.encoded import encode_all

TEXTS = [f"{'copper ' * (1 + 7 * number % 12)}{number}" for number in range(12)]
lengths_of_texts = st.lists(st.integers(1, 300), max_size=60)


@given(lengths=lengths_of_texts, most_tokens=st.integers(1, 1000))
def test_batches_hold_every_position_once_and_stay_within_bounds(lengths: list[int], most_tokens: int) -> None:
    """Padded to its longest text, a batch has no more than the limit, unless it is a single text."""
    batches = list(batches_by_length(lengths, most_tokens))
    assert sorted(position for batch in batches for position in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[position] for position in batch) <= most_tokens


@given(lengths=st.lists(st.integers(1, 300), min_size=1, max_size=60), most_tokens=st.integers(1, 1000))
def test_no_batch_could_have_taken_the_next_text(lengths: list[int], most_tokens: int) -> None:
    """Batches are as full as the limit allows, in the order of length, and of position for equal lengths."""
    batches = list(batches_by_length(lengths, most_tokens))
    flat = [position for batch in batches for position in batch]
    assert flat == sorted(flat, key=lambda position: (lengths[position], position))
    for batch, following in itertools.pairwise(batches):
        assert (len(batch) + 1) * lengths[following[0]] > most_tokens


@given(lengths=st.lists(st.integers(0, 300), max_size=60), most=st.integers(1, 1000))
def test_windows_hold_every_position_once_in_the_order_of_length(lengths: list[int], most: int) -> None:
    """A window has no more characters than the limit, unless it is a single text."""
    windows = list(windows_by_length(lengths, most))
    flat = [position for window in windows for position in window]
    assert flat == sorted(range(len(lengths)), key=lambda position: (lengths[position], position))
    assert all(len(one) == 1 or sum(lengths[position] for position in one) <= most for one in windows)


def test_the_next_result_is_computed_while_the_caller_has_the_last() -> None:
    """In another thread, one ahead and not more, and in order."""
    started = [threading.Event() for _ in range(4)]

    def work(number: int) -> tuple[int, int]:
        started[number].set()
        return number, threading.get_ident()

    results = one_ahead(work(number) for number in range(4))
    first = next(results)
    assert first[0] == 0
    assert started[1].wait(10)
    assert not started[2].is_set()
    assert [first[0], *(number for number, _ in results)] == [0, 1, 2, 3]
    assert first[1] != threading.get_ident()


def test_an_error_of_the_work_ahead_reaches_the_caller() -> None:
    """It is not lost in the thread."""

    def work(number: int) -> int:
        return 1 // number

    with pytest.raises(ZeroDivisionError):
        list(one_ahead(work(number) for number in [1, 0, 1]))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes."),
    ],
)
@pytest.mark.parametrize("room", [1, 2, 5])
def test_work_is_halved_until_it_fits(error: Exception, room: int) -> None:
    """However memory is said to have run out, and on either device; the order stays."""

    def work(texts: Sequence[int]) -> list[int]:
        if len(texts) > room:
            raise error
        return [2 * text for text in texts]

    assert halving(work, range(13)) == [2 * text for text in range(13)]


def test_a_batch_that_runs_out_of_memory_is_halved_and_no_text_is_skipped(
    encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model with room for three texts gives the vectors that it would give with room for all."""
    wanted = encode_all(encoder, TEXTS)
    sizes = []
    start = TokenModel.start

    def little_memory(self: TokenModel, texts: Sequence[TokenizedText], pool_factor: int) -> StartedVectors:
        sizes.append(len(texts))
        if len(texts) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return start(self, texts, pool_factor)

    monkeypatch.setattr(TokenModel, "start", little_memory)
    found = encode_all(encoder, TEXTS)
    assert max(sizes) > 3
    for ours, one in zip(found, wanted, strict=True):
        np.testing.assert_allclose(ours, one, atol=1e-5)


def test_memory_that_does_not_hold_one_text_is_the_callers_to_settle() -> None:
    """The error says what to change."""

    def no_memory(texts: Sequence[str]) -> list[str]:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(InputError, match="smaller --passage-tokens"):
        halving(no_memory, ["one", "two"])


def test_another_error_is_not_taken_for_a_lack_of_memory() -> None:
    """It comes out as it is, at once."""
    calls = []

    def broken(texts: Sequence[str]) -> list[str]:
        calls.append(len(texts))
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        halving(broken, ["one", "two"])
    assert calls == [2]

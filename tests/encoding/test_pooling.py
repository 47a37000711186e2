"""Pooling keeps fewer vectors, the same ones as PyLate.

Without a GPU Triton's interpreter runs the kernel of one.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from threadpoolctl import threadpool_info

from encoding.device_pooling import pool_rows
from encoding.encoder import Encoder
from encoding.pooling import pool_batch, pool_tokens, pooled_groups

GOLDEN = np.load(Path(__file__).parents[1] / "parity" / "golden" / "pooling.npz")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
POOLED = sorted(name for name in GOLDEN.files if "/" in name)


@pytest.mark.parametrize("name", POOLED)
def test_pooled_vectors_are_pylates(name: str) -> None:
    """On the same vectors, for every factor, with and without a protected token; in an order of our own."""
    tokens, factor, protected = name.split("/")
    pooled = pool_tokens(GOLDEN[tokens], int(factor), protected=int(protected))
    apart = np.abs(pooled[:, None] - GOLDEN[name][None]).max(axis=2)
    assert len(pooled) == len(GOLDEN[name])
    assert sorted(apart.argmin(axis=1)) == list(range(len(pooled)))
    assert apart.min(axis=1).max() < 1e-5


@pytest.mark.parametrize("protected", [0, 1, 2])
@pytest.mark.parametrize("factor", [2, 3, 100])
def test_a_gpu_pools_a_batch_as_a_processor_pools_each_passage(factor: int, protected: int) -> None:
    """Passages of many lengths together: the same vectors in the same order."""
    passages = [GOLDEN[name] for name in ["1", "2", "3", "7", "40"]]
    passages.append(np.eye(1, 16, dtype=np.float32).repeat(5, axis=0))  # whose distances all tie
    _assert_a_gpu_pools_as_a_processor(passages, factor, protected)


def test_a_gpu_pools_long_and_short_passages_in_one_batch() -> None:
    """What stands behind a short passage in the batch is none of its own."""
    _assert_a_gpu_pools_as_a_processor([GOLDEN["161"], GOLDEN["7"], GOLDEN["40"]], 2, 1)


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1), st.lists(st.integers(1, 14), min_size=1, max_size=3), st.integers(2, 5))
def test_a_gpu_pools_any_batch_as_a_processor_does(seed: int, lengths: list[int], factor: int) -> None:
    """Vectors as they come, among which no distances tie."""
    vectors = np.random.default_rng(seed).standard_normal((sum(lengths), 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    _assert_a_gpu_pools_as_a_processor(np.split(vectors, np.cumsum(lengths)[:-1]), factor, seed % 3)


@settings(max_examples=30)
@given(
    arrays(np.float32, st.tuples(st.integers(1, 12), st.just(2)), elements=st.sampled_from([-0.5, 0.0, 0.5, 1.0])),
    st.integers(2, 4),
    st.integers(0, 2),
)
def test_a_gpu_joins_the_first_of_those_that_tie(vectors: NDArray[np.float32], factor: int, protected: int) -> None:
    """By row and then by column of their distances, however many threads look; and no join is left out or added."""
    pytest.importorskip("triton", reason="without it the processor pools, in whose order of ties")
    clusters = _clusters_by_plain_steps(vectors, factor, protected)
    wanted = [vectors[clusters == one].mean(axis=0) for one in np.unique(clusters)]
    (rows,) = _pooled_on_a_gpu([vectors], factor, protected)
    assert len(rows) == len(wanted)
    np.testing.assert_array_almost_equal_nulp(rows, np.stack(wanted))


def test_vectors_that_are_not_numbers_end_the_joins() -> None:
    """The model then says what is wrong; it must get that far."""
    vectors = _unit_vectors(6)
    vectors[2] = np.nan
    (rows,) = _pooled_on_a_gpu([vectors], 3, 0)
    assert np.isnan(rows).any()


def test_without_triton_the_processor_pools_what_a_gpu_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a torch for CUDA on Linux brings it along."""
    monkeypatch.setitem(sys.modules, "triton", None)
    _assert_a_gpu_pools_as_a_processor([GOLDEN["7"], GOLDEN["40"]], 2, 1)


def test_pooled_vectors_come_in_the_order_of_their_first_tokens() -> None:
    """Wherever a passage is pooled, its vectors can be told by their places."""
    vectors = GOLDEN["161"]
    groups = pooled_groups(vectors, 3, protected=1)
    assert [group[0] for group in groups] == sorted(group[0] for group in groups)
    means = np.stack([vectors[group].mean(axis=0) for group in groups])
    np.testing.assert_allclose(pool_tokens(vectors, 3, protected=1), means, atol=1e-6)


@pytest.mark.parametrize("tokens", [0, 1, 2, 3, 50])
@pytest.mark.parametrize("factor", [1, 2, 3, 100])
def test_pooling_keeps_the_share_that_was_asked_for(tokens: int, factor: int) -> None:
    """At least one vector for what is not protected, whatever the factor."""
    vectors = _unit_vectors(tokens)
    pooled = pool_tokens(vectors, factor, protected=1)
    assert pooled.dtype == np.float32
    assert len(pooled) == min(tokens, 1) + (max((tokens - 1) // factor, 1) if tokens > 1 else 0)
    np.testing.assert_array_equal(pooled[:1], vectors[:1])


def test_equal_vectors_become_one() -> None:
    """Where all distances tie there may be fewer clusters than asked for."""
    vectors = np.repeat(_unit_vectors(1), 12, axis=0)
    pooled = pool_tokens(vectors, 2, protected=0)
    assert 1 <= len(pooled) <= 6
    np.testing.assert_allclose(pooled, vectors[: len(pooled)], atol=1e-6)


def test_a_passage_may_hold_equal_vectors_whatever_their_product_rounds_to() -> None:
    """The product of one with its equal is 1 and a little more or less, and neither stops a build."""
    for seed in range(100):
        vectors = np.random.default_rng(seed).standard_normal((40, 128)).astype(np.float32)
        vectors[7] = vectors[20]
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        groups = pooled_groups(vectors, 2, protected=1)
        assert len(pool_tokens(vectors, 2, protected=1)) == len(groups)
        assert any({7, 20} <= set(group) for group in groups)


def test_a_gpu_too_pools_equal_vectors() -> None:
    """The same clusters, among distances that would be below zero."""
    random = np.random.default_rng(5)
    for tokens in (6, 24):
        vectors = random.standard_normal((tokens, 128)).astype(np.float32)
        vectors[3] = vectors[1]
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        _assert_a_gpu_pools_as_a_processor([vectors], 2, 0)


def test_threads_that_pool_at_once_leave_blas_the_threads_that_it_had() -> None:
    """Whichever ends first: the number is one of the whole process."""
    first_in, second_in, first_out = threading.Event(), threading.Event(), threading.Event()

    def while_another(comes: threading.Event, waited_for: threading.Event) -> Iterator[NDArray[np.float32]]:
        comes.set()
        waited_for.wait(1)
        yield _unit_vectors(4)

    before = _blas_threads()
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(pool_batch, while_another(first_in, second_in), 2, protected=0)
        assert first_in.wait(20)
        second = threads.submit(pool_batch, while_another(second_in, first_out), 2, protected=0)
        first.result()
        first_out.set()
        second.result()
    assert _blas_threads() == before


def test_an_encoder_pools_documents_and_no_queries(encoder: Encoder) -> None:
    """A factor of three leaves a third of a passage's token vectors; that of the whole text stays as it is."""
    text = "the heron circled above the quiet harbour while lantern and violin waited"
    ((_, whole),) = next(encoder.encode([text]))
    ((_, pooled),) = next(encoder.encode([text], 3))
    assert len(pooled) == 1 + (len(whole) - 1) // 3
    np.testing.assert_allclose(pooled, pool_tokens(whole, 3, protected=1), atol=1e-6)
    np.testing.assert_array_equal(pooled[0], whole[0])
    assert len(encoder.encode_query(text)) == len(whole)


def _unit_vectors(count: int) -> NDArray[np.float32]:
    vectors = np.random.default_rng(20).standard_normal((count, 16)).astype(np.float32)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def _blas_threads() -> list[int]:
    return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]


def _assert_a_gpu_pools_as_a_processor(passages: list[NDArray[np.float32]], factor: int, protected: int) -> None:
    one_by_one = [pool_tokens(one, factor, protected=protected) for one in passages]
    for ours, wanted in zip(_pooled_on_a_gpu(passages, factor, protected), one_by_one, strict=True):
        assert len(ours) == len(wanted)
        np.testing.assert_allclose(ours, wanted, atol=1e-5)


def _pooled_on_a_gpu(passages: list[NDArray[np.float32]], factor: int, protected: int) -> list[NDArray[np.float32]]:
    together = torch.from_numpy(np.concatenate(passages)).to(DEVICE)
    padded, left = pool_rows(together, [len(one) for one in passages], factor, protected=protected)
    return [rows[own].cpu().numpy() for rows, own in zip(padded, left, strict=True)]


def _clusters_by_plain_steps(vectors: NDArray[np.float32], factor: int, protected: int) -> NDArray[np.intp]:
    """The first token of each token's cluster, by steps that each read all distances."""
    clusters = np.arange(len(vectors))
    free = clusters >= protected
    apart = free[:, None] & free & ~np.eye(len(vectors), dtype=bool)
    squares = np.where(apart, np.square(np.maximum(1 - vectors @ vectors.T, 0)), np.inf).astype(np.float32)
    sizes, height = np.ones(len(vectors), np.float32), -1.0
    joins = max(free.sum() - max(free.sum() // factor, 1), 0)
    while (least := squares.min()) < np.inf and (joins > 0 or least <= height):
        one, other = sorted(np.unravel_index(squares.argmin(), squares.shape))
        size, added = sizes[one], sizes[other]
        sums = (size + sizes) * squares[one] + (added + sizes) * squares[other] - sizes * least
        squares[one] = squares[:, one] = sums / (size + added + sizes)
        squares[other] = squares[:, other] = np.inf
        sizes[one] += added
        clusters[clusters == other] = one
        height, joins = least, joins - 1
    return clusters

"""Pooling keeps fewer vectors, the same ones as PyLate."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from encoding.device_pooling import pool_rows
from encoding.encoder import Encoder
from encoding.pooling import pool_tokens, pooled_groups

GOLDEN = np.load(Path(__file__).parents[1] / "parity" / "golden" / "pooling.npz")
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
    """Passages of all lengths together: the same vectors in the same order (here by the same steps on a processor)."""
    passages = [GOLDEN[name] for name in GOLDEN.files if "/" not in name]
    passages.append(np.eye(1, 16, dtype=np.float32).repeat(5, axis=0))  # whose distances all tie
    one_by_one = [pool_tokens(one, factor, protected=protected) for one in passages]
    together = torch.from_numpy(np.concatenate(passages))
    rows, counts = pool_rows(together, [len(one) for one in passages], factor, protected=protected)
    assert counts == [len(one) for one in one_by_one]
    np.testing.assert_allclose(rows.numpy(), np.concatenate(one_by_one), atol=1e-5)


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

"""Pooling keeps fewer vectors, the same ones as PyLate."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from encoding.encoder import Encoder
from encoding.pooling import pool_tokens

GOLDEN = np.load(Path(__file__).parents[1] / "parity" / "golden" / "pooling.npz")
POOLED = sorted(name for name in GOLDEN.files if "/" in name)


@pytest.mark.parametrize("name", POOLED)
def test_pooled_vectors_are_pylates(name: str) -> None:
    """On the same vectors, for every factor, with and without a protected token, and in the same order."""
    tokens, factor, protected = name.split("/")
    pooled = pool_tokens(GOLDEN[tokens], int(factor), protected=int(protected))
    np.testing.assert_allclose(pooled, GOLDEN[name], atol=1e-5)


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

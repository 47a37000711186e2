"""The fast scores against their definition: equal bit for bit, whatever the size, block, order or segment."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from index_format.codec import Codec, unpack
from index_format.segment import SegmentReader
from serving.oracle import coded_maxsim, exact_maxsim
from serving.scoring import approximate_scores, centroid_scores, maxsim, prepare_query
from serving.snapshot import Snapshot
from tests.serving.vectors import Document, Vectors, random_documents, random_snapshot, random_vectors

BLOCK = 2048  # tokens that `maxsim` scores at once
ODD_LENGTHS = [1, 2, BLOCK - 1, 3, BLOCK, 1, 1, BLOCK + 1, 5, 4000, 2, 63, 64, 65]


def _query(dim: int, count: int = 5) -> Vectors:
    """Random query vectors, one of them of zeros."""
    query = random_vectors(np.random.default_rng(dim), count, dim)
    query[1] = 0
    return query


def _everything(segment: SegmentReader) -> NDArray[np.int64]:
    return np.arange(segment.record.passages)


def _by_definition(query: Vectors, codec: Codec, segment: SegmentReader) -> Vectors:
    """The oracle's score of every passage."""
    starts, codes, scales = segment.codes.offsets, segment.codes.codes, segment.codes.scales
    spans = [slice(int(start), int(end)) for start, end in itertools.pairwise(starts)]
    return np.array([coded_maxsim(query, codec, codes[span], scales[span]) for span in spans])


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    """Eighty passages of up to 300 tokens in one segment."""
    lengths = np.random.default_rng(5).integers(1, 300, size=(80, 1)).tolist()
    return random_snapshot(tmp_path_factory.mktemp("cache"), random_documents(6, lengths, 16))


@pytest.mark.parametrize("dim", [8, 128, 384])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_maxsim_equals_its_definition_bit_for_bit(bits: int, dim: int, tmp_path: Path) -> None:
    """Passages of one token, around the size of a block, and of almost two blocks."""
    opened = random_snapshot(tmp_path, random_documents(1, [ODD_LENGTHS], dim), bits=bits)
    query, segment = _query(dim), opened.segments[0]
    scores = maxsim(prepare_query(query, opened.codec), opened.codec, segment, _everything(segment))
    assert scores.dtype == np.float32
    np.testing.assert_array_equal(scores, _by_definition(query, opened.codec, segment))


@pytest.mark.parametrize("dim", [8, 384, 1024])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_codes_and_queries_at_their_extremes_are_still_exact(bits: int, dim: int, tmp_path: Path) -> None:
    """All levels at either end of their range: the greatest integers that a score can meet."""
    signs = np.random.default_rng(2).choice([-1, 1], size=(40, dim)).astype(np.float32)
    signs[:4] = [[-1], [1], [-1], [1]]
    sample = np.concatenate([signs, -signs])  # its mean is zero, so every code is the lowest or the highest
    documents = [Document(f"d{n}", [signs[n : n + 1] / np.float32(dim**0.5)]) for n in range(40)]
    opened = random_snapshot(tmp_path, documents, bits=bits, sample=sample)
    query, segment = signs[:6], opened.segments[0]
    assert set(np.unique(unpack(segment.codes.codes, bits))) == {0, 2**bits - 1}
    scores = maxsim(prepare_query(query, opened.codec), opened.codec, segment, _everything(segment))
    np.testing.assert_array_equal(scores, _by_definition(query, opened.codec, segment))


@pytest.mark.parametrize(("bits", "error"), [(2, 0.2), (4, 0.05), (8, 0.01)])
def test_maxsim_on_codes_is_close_to_maxsim_of_the_vectors(bits: int, error: float, tmp_path: Path) -> None:
    """The error for each query vector shrinks with the bits."""
    documents = random_documents(3, [[9, 30], [1], [200]], 128)
    opened = random_snapshot(tmp_path, documents, bits=bits)
    query, segment = _query(128), opened.segments[0]
    scores = maxsim(prepare_query(query, opened.codec), opened.codec, segment, _everything(segment))
    exact = [exact_maxsim(query, passage) for document in documents for passage in document.passages]
    np.testing.assert_allclose(scores, exact, atol=error * len(query))


@given(seed=st.integers(0, 2**32 - 1), count=st.integers(0, 200))
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_score_does_not_depend_on_the_passages_around_it(snapshot: Snapshot, seed: int, count: int) -> None:
    """Any passages in any order, some of them twice, have the scores that they have together."""
    segment, query = snapshot.segments[0], prepare_query(_query(16), snapshot.codec)
    together = maxsim(query, snapshot.codec, segment, _everything(segment))
    chosen = np.random.default_rng(seed).integers(0, segment.record.passages, size=count)
    np.testing.assert_array_equal(maxsim(query, snapshot.codec, segment, chosen), together[chosen])


@pytest.mark.parametrize("segments", [2, 7, 80])
def test_a_score_does_not_depend_on_the_segment(snapshot: Snapshot, segments: int, tmp_path: Path) -> None:
    """The same passages in many segments have the same scores and the same approximate scores, bit for bit."""
    lengths = np.diff(snapshot.segments[0].codes.offsets)[:, None].tolist()
    documents = random_documents(6, lengths, 16)
    sample = np.concatenate([document.passages[0] for document in documents])
    parts = [documents[part[0] : part[-1] + 1] for part in np.array_split(np.arange(80), segments)]
    divided = random_snapshot(tmp_path, *parts, sample=sample)
    query = prepare_query(_query(16), snapshot.codec)
    scores_CQ = centroid_scores(query, snapshot.codebook.centroids)
    one = snapshot.segments[0]
    exact = [maxsim(query, divided.codec, segment, _everything(segment)) for segment in divided.segments]
    np.testing.assert_array_equal(np.concatenate(exact), maxsim(query, snapshot.codec, one, _everything(one)))
    rough = [approximate_scores(scores_CQ, segment) for segment in divided.segments]
    np.testing.assert_array_equal(np.concatenate(rough), approximate_scores(scores_CQ, one))


def test_no_passages_have_no_scores(snapshot: Snapshot) -> None:
    """An empty choice is a choice."""
    query = prepare_query(_query(16), snapshot.codec)
    assert maxsim(query, snapshot.codec, snapshot.segments[0], np.zeros(0, np.int64)).tolist() == []


def test_the_approximate_score_is_a_sum_of_best_centroids(snapshot: Snapshot) -> None:
    """Equal bit for bit to a loop over passages and query vectors."""
    segment = snapshot.segments[0]
    scores_CQ = centroid_scores(prepare_query(_query(16), snapshot.codec), snapshot.codebook.centroids)
    expected = []
    for passage in range(segment.record.passages):
        start, end = (int(segment.centroids.offsets[at]) for at in (passage, passage + 1))
        total = np.float32(0)
        for column in range(scores_CQ.shape[1]):
            total += max(scores_CQ[centroid, column] for centroid in segment.centroids.ids[start:end])
        expected.append(total)
    np.testing.assert_array_equal(approximate_scores(scores_CQ, segment), np.array(expected, np.float32))


def test_approximate_scores_are_right_across_blocks(tmp_path: Path) -> None:
    """More centroid ids than a block of 16,384 holds."""
    opened = random_snapshot(tmp_path, random_documents(7, [[90]] * 260, 8), bits=2, centroids=128)
    segment = opened.segments[0]
    assert len(segment.centroids.ids) > 8 * BLOCK
    scores_CQ = centroid_scores(prepare_query(_query(8, 3), opened.codec), opened.codebook.centroids)
    parts = np.split(segment.centroids.ids, segment.centroids.offsets[1:-1])
    expected = [sum((scores_CQ[part].max(axis=0)), start=np.float32(0)) for part in parts]
    np.testing.assert_array_equal(approximate_scores(scores_CQ, segment), np.array(expected, np.float32))


def test_a_query_is_rounded_to_eight_bits_on_scales_of_its_own(snapshot: Snapshot) -> None:
    """Levels are integers up to 127, the largest reaches it, and a vector of zeros stays zero."""
    vectors = _query(16)
    query = prepare_query(vectors, snapshot.codec)
    assert np.array_equal(query.levels, np.rint(query.levels))
    assert np.abs(query.levels).max(axis=1).tolist() == [127, 0, 127, 127, 127]
    np.testing.assert_allclose(query.levels * query.scales[:, None], vectors, atol=query.scales.max() / 2)

"""The fast scores against their definition: equal bit for bit, whatever the size, block, order or segment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from index_format.codec import MAX_DIM, Codec, unpack
from index_format.rotation import Rotation
from serving.approximate import approximate_scores, round_to_bytes
from serving.kernels.levels import LEVELS, Level, levels_here
from serving.oracle import exact_maxsim
from serving.scoring import MOST_BLOCKS, Query, maxsim, maxsim_of_several, prepare_query, sharing
from serving.snapshot import Snapshot
from tests.serving.vectors import (
    Document,
    Vectors,
    by_definition,
    random_documents,
    random_query,
    random_snapshot,
    random_vectors,
)

ODD_LENGTHS = [1, 2, 3, 4, 5, 6, 7, 1, 11, 12, 13, 23, 24, 25, 1, 4000, 2, 63, 64, 65]


def _maxsim(snapshot: Snapshot, query: Vectors, passages: list[int] | None = None, **how: Any) -> Vectors:
    """The product's scores of some passages, all of them by default."""
    chosen = np.arange(snapshot.table.passages) if passages is None else np.array(passages, np.int64)
    prepared = prepare_query(query, snapshot.codec, how.pop("level", None))
    return maxsim(prepared, snapshot.table, snapshot.codec.row_bytes, chosen, **how)


def _approximate(snapshot: Snapshot, query: Vectors, **how: Any) -> NDArray[np.int32]:
    """The product's approximate scores of all passages."""
    prepared = prepare_query(query, snapshot.codec, how.pop("level", None))
    allowed = how.pop("allowed", snapshot.live)
    return approximate_scores(prepared, snapshot.table, snapshot.centroids, allowed, **how)


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    """Eighty passages of up to 300 tokens in one segment."""
    lengths = np.random.default_rng(5).integers(1, 300, size=(80, 1)).tolist()
    return random_snapshot(tmp_path_factory.mktemp("cache"), random_documents(6, lengths, 16))


@pytest.mark.parametrize("level", levels_here(), ids=lambda level: level.name)
@pytest.mark.parametrize("dim", [8, 24, 128])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_maxsim_equals_its_definition_bit_for_bit(bits: int, dim: int, level: Level, tmp_path: Path) -> None:
    """Passages of one token, around the size of a tile, and very long; on every instruction level here."""
    opened = random_snapshot(tmp_path, random_documents(1, [ODD_LENGTHS], dim), bits=bits)
    scores = _maxsim(opened, random_query(dim), level=level)
    assert scores.dtype == np.float32
    np.testing.assert_array_equal(scores, by_definition(random_query(dim), opened))


@pytest.mark.parametrize("level", levels_here(), ids=lambda level: level.name)
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_the_greatest_products_there_are_do_not_overflow(bits: int, level: Level, tmp_path: Path) -> None:
    """Every dimension at its end, on the same side as the query's and on the other, as many as an index may have."""
    ends = np.ones((2, MAX_DIM), np.float32)
    ends[1] = -1
    opened = random_snapshot(tmp_path, [Document("ends", [ends])], bits=bits)
    np.testing.assert_array_equal(_maxsim(opened, ends, level=level), by_definition(ends, opened))
    for one in ends:
        np.testing.assert_array_equal(_maxsim(opened, one[None], level=level), by_definition(one[None], opened))


@pytest.mark.parametrize("level", levels_here(), ids=lambda level: level.name)
def test_a_query_whose_levels_add_up_beyond_what_a_float_holds_is_still_exact(level: Level, tmp_path: Path) -> None:
    """At 8 bits, 255 times their sum, odd and above 2^24: nearly all levels at one end, one a step below it."""
    opened = random_snapshot(tmp_path, random_documents(4, [[30, 2]], MAX_DIM), bits=8)
    rotated = np.full((2, MAX_DIM), 127, np.float32)
    rotated[0, 0], rotated[1, :2] = 126, (126, 1)
    query = Rotation.drawn(MAX_DIM).undo(rotated)
    levels = prepare_query(query, opened.codec).levels.sum(axis=1)
    assert (levels > 2**24 / 255).all()
    assert (levels % 2 == 1).any()
    np.testing.assert_array_equal(_maxsim(opened, query, level=level), by_definition(query, opened))


@pytest.mark.parametrize("level", levels_here(), ids=lambda level: level.name)
@pytest.mark.parametrize("count", [1, 4, 5, 8, 9, 16, 17, 24, 25, 33, 40, 41, 56, 64, 65, 200])
def test_any_number_of_query_vectors_is_scored_in_their_order(count: int, level: Level, tmp_path: Path) -> None:
    """As many as fill registers, one less, one more, and more than one call takes."""
    opened = random_snapshot(tmp_path, random_documents(2, [[7, 1, 30]], 16))
    scores = _maxsim(opened, random_query(16, count), level=level)
    np.testing.assert_array_equal(scores, by_definition(random_query(16, count), opened))


@pytest.mark.parametrize("level", levels_here(), ids=lambda level: level.name)
@pytest.mark.parametrize("dim", [8, 384, 1024])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_codes_and_queries_at_their_extremes_are_still_exact(bits: int, dim: int, level: Level, tmp_path: Path) -> None:
    """All levels at either end of their range: the greatest integers that a score can meet."""
    rotated = np.random.default_rng(2).choice([-1, 1], size=(40, dim)).astype(np.float32)
    rotated[:4] = [[-1], [1], [-1], [1]]
    signs = Rotation.drawn(dim).undo(rotated)
    sample = np.concatenate([signs, -signs])  # its mean is zero, so every code is the lowest or the highest
    documents = [Document(f"d{n}", [signs[n : n + 1] / np.float32(dim**0.5)]) for n in range(40)]
    opened = random_snapshot(tmp_path, documents, bits=bits, sample=sample)
    assert set(np.unique(unpack(opened.segments[0].codes.codes, bits))) == {0, 2**bits - 1}
    np.testing.assert_array_equal(_maxsim(opened, signs[:6], level=level), by_definition(signs[:6], opened))


@pytest.mark.parametrize("level", levels_here(), ids=lambda level: level.name)
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("counts", [[1, 1], [3, 1, 5], [7, 8, 1], [5, 11], [1] * 16], ids=str)
def test_queries_scored_in_one_pass_have_the_scores_that_each_has_alone(
    counts: list[int], bits: int, level: Level, tmp_path: Path
) -> None:
    """Of any lengths, within a register and across; all passages, some and none of three segments, on threads."""
    opened = random_snapshot(tmp_path, random_documents(1, [ODD_LENGTHS[:12], [4, 9], [1]], 24), bits=bits)
    queries = [random_vectors(np.random.default_rng(number), count, 24) for number, count in enumerate(counts)]
    prepared = [prepare_query(query, opened.codec, level) for query in queries]
    for passages in (np.arange(15), np.array([0, 3, 11, 14]), np.array([], np.int64)):
        scores = maxsim_of_several(prepared, opened.table, opened.codec.row_bytes, passages, threads=2)
        assert (scores.dtype, scores.shape) == (np.float32, (len(counts), len(passages)))
        for query, own in zip(queries, scores, strict=True):
            np.testing.assert_array_equal(own, by_definition(query, opened)[passages])


@pytest.mark.parametrize("level", levels_here(), ids=lambda level: level.name)
def test_queries_that_fill_every_register_together_have_the_scores_that_each_has_alone(
    level: Level, snapshot: Snapshot
) -> None:
    """As many vectors as one call takes: of two queries and of many, the last lane too."""
    lanes = MOST_BLOCKS * level.lanes
    for counts in ([lanes - 1, 1], [1, lanes - 1], [lanes // 2] * 2, [1] * lanes):
        queries = [random_vectors(np.random.default_rng(number), count, 16) for number, count in enumerate(counts)]
        prepared = [prepare_query(query, snapshot.codec, level) for query in queries]
        scores = maxsim_of_several(prepared, snapshot.table, snapshot.codec.row_bytes, np.arange(80))
        for query, own in zip(queries, scores, strict=True):
            np.testing.assert_array_equal(own, _maxsim(snapshot, query, level=level))


@given(counts=st.lists(st.integers(1, 200), max_size=40))
def test_every_query_is_in_one_pass_and_every_pass_fits_one_call(counts: list[int]) -> None:
    """In their order; a query that no call takes whole is alone."""
    for level in levels_here():
        shared = sharing(counts, level)
        assert [place for own in shared for place in own] == list(range(len(counts)))
        sums = [sum(counts[place] for place in own) for own in shared if len(own) > 1]
        assert all(vectors <= MOST_BLOCKS * level.lanes for vectors in sums)


def test_queries_share_a_pass_where_it_is_quicker_than_one_after_the_other() -> None:
    """Short ones do, as measured (docs/decisions/0028); those that fill their registers by themselves do not."""
    vnni, avx2, _ = LEVELS
    assert [len(own) for own in sharing([12] * 9, vnni)] == [4, 4, 1]
    assert [len(own) for own in sharing([8] * 4, vnni)] == [4]
    assert [len(own) for own in sharing([24, 24], vnni)] == [2]
    assert [len(own) for own in sharing([32, 32], vnni)] == [1, 1]
    assert [len(own) for own in sharing([12, 12, 12], avx2)] == [2, 1]


@pytest.mark.parametrize(("bits", "error"), [(1, 0.5), (2, 0.2), (4, 0.05), (8, 0.01)])
def test_maxsim_on_codes_is_close_to_maxsim_of_the_vectors(bits: int, error: float, tmp_path: Path) -> None:
    """The error for each query vector shrinks with the bits."""
    documents = random_documents(3, [[9, 30], [1], [200]], 128)
    opened = random_snapshot(tmp_path, documents, bits=bits)
    exact = [exact_maxsim(random_query(128), passage) for document in documents for passage in document.passages]
    np.testing.assert_allclose(_maxsim(opened, random_query(128)), exact, atol=error * len(random_query(128)))


@given(seed=st.integers(0, 2**32 - 1), count=st.integers(0, 80), threads=st.integers(1, 4))
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_score_does_not_depend_on_the_passages_around_it(
    snapshot: Snapshot, seed: int, count: int, threads: int
) -> None:
    """Any passages, on any number of threads, have the scores that they have together."""
    together = _maxsim(snapshot, random_query(16))
    chosen = np.sort(np.random.default_rng(seed).choice(80, size=count, replace=False)).tolist()
    np.testing.assert_array_equal(_maxsim(snapshot, random_query(16), chosen, threads=threads), together[chosen])


@pytest.mark.parametrize("segments", [2, 7, 80])
def test_a_score_does_not_depend_on_the_segment(snapshot: Snapshot, segments: int, tmp_path: Path) -> None:
    """The same passages in many segments have the same scores and the same approximate scores, bit for bit."""
    lengths = np.diff(snapshot.segments[0].codes.offsets)[:, None].tolist()
    documents = random_documents(6, lengths, 16)
    sample = np.concatenate([document.passages[0] for document in documents])
    parts = [documents[part[0] : part[-1] + 1] for part in np.array_split(np.arange(80), segments)]
    divided = random_snapshot(tmp_path, *parts, sample=sample)
    for score in (_maxsim, _approximate):
        np.testing.assert_array_equal(score(divided, random_query(16)), score(snapshot, random_query(16)))
        np.testing.assert_array_equal(score(divided, random_query(16), threads=3), score(snapshot, random_query(16)))


def test_no_passages_have_no_scores(snapshot: Snapshot) -> None:
    """An empty choice is a choice."""
    assert _maxsim(snapshot, random_query(16), []).tolist() == []


def _products(query: Query, codes: NDArray[np.uint8], scales: NDArray[np.float16], bits: int) -> Vectors:
    """Query vectors with rows of codes, less the product with the codec's mean, as SPEC §6.2 has it: [rows, Q]."""
    levels = 2 * unpack(codes, bits).astype(np.int64) - (2**bits - 1)
    exact = (levels @ query.levels.T.astype(np.int64)).astype(np.float32)
    return exact * scales.astype(np.float32)[:, None] * (query.scales * np.float32(0.5))


def _approximate_by_definition(query: Vectors, snapshot: Snapshot) -> list[int]:
    """Each passage's centroids and outliers one by one, as bytes of their products."""
    prepared, book = prepare_query(query, snapshot.codec), snapshot.centroids
    rounding = round_to_bytes(prepared, book)

    def as_bytes(products: Vectors) -> NDArray[np.int64]:
        return np.clip((products - rounding.floors) * rounding.step, 0, 255).astype(np.int64)

    of_centroids = as_bytes(_products(prepared, book.codes, book.scales, 8))
    scores = []
    for touched in (segment.centroids for segment in snapshot.segments):
        own = _products(prepared, touched.outlier_codes, touched.outlier_scales, snapshot.codec.bits)
        of_outliers = as_bytes(own + prepared.offsets)
        ids = np.split(of_centroids[touched.ids], touched.offsets[1:-1])
        outliers = np.split(of_outliers, touched.outlier_offsets[1:-1])
        scores += [int(np.concatenate(both).max(axis=0).sum()) for both in zip(ids, outliers, strict=True)]
    return scores


@pytest.mark.parametrize("level", levels_here(), ids=lambda level: level.name)
@pytest.mark.parametrize("dim", [8, 24, 128])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_the_approximate_score_equals_its_definition(bits: int, dim: int, level: Level, tmp_path: Path) -> None:
    """Passages with many outliers, with one and with none; outliers around the size of a tile in a segment."""
    documents = random_documents(2, [[length] for length in ODD_LENGTHS], dim)
    opened = random_snapshot(tmp_path, documents[:1], documents[1:9], documents[9:], bits=bits)
    found = np.concatenate([np.diff(segment.centroids.outlier_offsets) for segment in opened.segments])
    assert {0, 1} < set(found.tolist())
    scores = _approximate(opened, random_query(dim), level=level)
    np.testing.assert_array_equal(scores, _approximate_by_definition(random_query(dim), opened))


@pytest.mark.parametrize("level", levels_here(), ids=lambda level: level.name)
@pytest.mark.parametrize("count", [1, 5, 9, 16, 24, 25, 40, 70])
def test_any_number_of_query_vectors_has_an_approximate_score(snapshot: Snapshot, count: int, level: Level) -> None:
    """As many as fill registers, and more than one call takes; on any number of threads."""
    expected = _approximate_by_definition(random_query(16, count), snapshot)
    for threads in (1, 3):
        found = _approximate(snapshot, random_query(16, count), level=level, threads=threads)
        np.testing.assert_array_equal(found, expected)


def test_an_index_without_outliers_is_scored_by_its_centroids(snapshot: Snapshot, tmp_path: Path) -> None:
    """What a codebook without a distance gives: the definition holds, and scores are lower or equal."""
    lengths = np.diff(snapshot.segments[0].codes.offsets)[:, None].tolist()
    plain = random_snapshot(tmp_path, random_documents(6, lengths, 16), outlier_share=None)
    assert plain.table.outliers == 0 < snapshot.table.outliers
    scores = _approximate(plain, random_query(16))
    np.testing.assert_array_equal(scores, _approximate_by_definition(random_query(16), plain))
    assert (scores <= _approximate(snapshot, random_query(16))).all()
    assert (scores < _approximate(snapshot, random_query(16))).any()


def test_bytes_reach_from_the_mean_of_centroids_to_the_greatest_product_there_can_be(snapshot: Snapshot) -> None:
    """So none is cut off at the top, and the widest query vector's mean is zero; a query of zeros has no steps."""
    prepared = prepare_query(random_query(16), snapshot.codec)
    rounding = round_to_bytes(prepared, snapshot.centroids)
    book = snapshot.centroids
    decoded = Codec(np.zeros(16, np.float32), 8).decompress(book.codes, book.scales)
    products = decoded @ (prepared.levels * prepared.scales[:, None]).T
    assert ((products - rounding.floors) * rounding.step).max() <= 255
    assert ((products.mean(axis=0) - rounding.floors) * rounding.step).min() == pytest.approx(0, abs=1e-3)
    nothing = prepare_query(np.zeros((2, 16), np.float32), snapshot.codec)
    assert round_to_bytes(nothing, book).step == 0
    assert set(_approximate(snapshot, np.zeros((2, 16), np.float32)).tolist()) == {0}


def test_all_levels_have_the_same_approximate_scores(snapshot: Snapshot) -> None:
    """So that an answer does not depend on the processor that gave it."""
    first, *others = (_approximate(snapshot, random_query(16, 40), level=level) for level in levels_here())
    for other in others:
        np.testing.assert_array_equal(other, first)


def test_a_passage_that_is_not_allowed_is_marked(snapshot: Snapshot) -> None:
    """It has -1; the others have what they have without a choice."""
    allowed = np.arange(80) % 3 == 0
    query = random_query(16)
    everything, some = _approximate(snapshot, query), _approximate(snapshot, query, allowed=allowed)
    np.testing.assert_array_equal(some, np.where(allowed, everything, -1))


def test_a_query_is_rounded_to_eight_bits_on_scales_of_its_own(snapshot: Snapshot) -> None:
    """Levels are integers up to 127, the largest reaches it, and a vector of zeros stays zero."""
    vectors = random_query(16)
    query = prepare_query(vectors, snapshot.codec)
    assert np.array_equal(query.levels, np.rint(query.levels))
    assert np.abs(query.levels).max(axis=1).tolist() == [127, 0, 127, 127, 127]
    np.testing.assert_allclose(
        query.levels * query.scales[:, None], snapshot.codec.rotated(vectors), atol=query.scales.max() / 2
    )

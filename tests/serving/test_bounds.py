"""What spares a scan of all passages changes nothing that comes of it."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from serving import postings, scorer
from serving.approximate import approximate_scores, byte_rows, scan
from serving.bounds import BoundedScores, upper_bounds
from serving.candidates import ApproximateScores, score_candidates
from serving.kernels.levels import Level, levels_here
from serving.kernels.segments import ARRAYS, Field, SegmentTable
from serving.postings import Postings
from serving.scorer import CpuScorer
from serving.scoring import prepare_query
from serving.search import rank
from serving.snapshot import Snapshot
from tests.serving.vectors import Vectors, random_documents, random_query, random_snapshot, random_vectors

CENTROIDS = 64
LENGTHS = np.random.default_rng(3).integers(1, 30, size=(150, 1)).tolist()


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    """A hundred and fifty passages in three segments, one of which has a single passage; some have outliers."""
    documents = random_documents(8, LENGTHS, 16)
    parts = documents[:90], documents[90:91], documents[91:]
    return random_snapshot(tmp_path_factory.mktemp("cache"), *parts, centroids=CENTROIDS)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A block ends within a segment, and another goes over two."""
    monkeypatch.setattr(postings, "MOST_PASSAGES", 40)


def _bounds(snapshot: Snapshot, query: Vectors, level: Level | None = None, threads: int = 1) -> NDArray[np.int32]:
    prepared = prepare_query(query, snapshot.codec, level)
    rows = byte_rows(prepared, snapshot.table, snapshot.centroids)
    lists = Postings.of(snapshot.table, CENTROIDS)
    return upper_bounds(prepared, snapshot.table, rows, lists, snapshot.live, threads=threads)


def _approximate(snapshot: Snapshot, query: Vectors) -> NDArray[np.int32]:
    prepared = prepare_query(query, snapshot.codec)
    return approximate_scores(prepared, snapshot.table, snapshot.centroids, snapshot.live)


def _bounded(snapshot: Snapshot, query: Vectors, allowed: NDArray[np.bool_]) -> BoundedScores:
    prepared = prepare_query(query, snapshot.codec)
    rows = byte_rows(prepared, snapshot.table, snapshot.centroids)
    lists = Postings.of(snapshot.table, CENTROIDS)
    bounds = upper_bounds(prepared, snapshot.table, rows, lists, allowed)
    return BoundedScores(bounds, partial(scan, prepared, snapshot.table, rows), _exact)


def _exact(passages: NDArray[np.int64]) -> NDArray[np.float32]:
    """Scores that follow approximate ones as little as wanted: any will do."""
    return (passages * 37 % 101).astype(np.float32)


def _touching(table: SegmentTable) -> list[set[int]]:
    """The passages that touch each centroid, one by one."""
    touching: list[set[int]] = [set() for _ in range(CENTROIDS)]
    passage = 0
    for at in range(0, len(table.arrays), len(ARRAYS)):
        offsets, ids = (table.arrays[at + ARRAYS.index(f)] for f in (Field.CENTROID_OFFSETS, Field.CENTROID_IDS))
        for own in np.split(ids, offsets[1:-1].astype(np.int64)):
            for centroid in own.tolist():
                touching[centroid].add(passage)
            passage += 1
    return touching


def test_postings_tell_the_passages_that_touch_each_centroid(snapshot: Snapshot) -> None:
    """All of them, ascending, in blocks that are full but for the last."""
    lists = Postings.of(snapshot.table, CENTROIDS)
    assert lists.firsts.tolist() == [0, 40, 80, 120, 150]
    for centroid, passages in enumerate(_touching(snapshot.table)):
        found = [
            block.passages[block.starts[centroid] : block.starts[centroid + 1]].astype(np.int64) + first
            for block, first in zip(lists.blocks, lists.firsts, strict=False)
        ]
        assert np.concatenate(found).tolist() == sorted(passages)


def test_a_version_with_more_passages_takes_the_blocks_of_the_one_before(snapshot: Snapshot) -> None:
    """Only the last block is made anew, in which the new passages lie; without any nothing is."""
    count = len(ARRAYS)
    whole = [snapshot.table.arrays[at : at + count] for at in range(0, len(snapshot.table.arrays), count)]
    before = Postings.of(SegmentTable.of(whole[:2]), CENTROIDS)
    after = Postings.of(SegmentTable.of(whole), CENTROIDS, before)
    assert [one is other for one, other in zip(after.blocks, before.blocks, strict=False)] == [True, True, False]
    again = Postings.of(SegmentTable.of(whole), CENTROIDS, after)
    assert all(one is other for one, other in zip(again.blocks, after.blocks, strict=True))


def test_an_id_beyond_the_centroids_is_taken_for_one_within(snapshot: Snapshot) -> None:
    """As a scan takes it: a file that was damaged after it was checked cannot make anything write where it must not."""
    arrays = list(snapshot.table.arrays[: len(ARRAYS)])
    place = ARRAYS.index(Field.CENTROID_IDS)
    plain = Postings.of(SegmentTable.of([arrays]), CENTROIDS)
    arrays[place] = arrays[place] + CENTROIDS
    for one, other in zip(plain.blocks, Postings.of(SegmentTable.of([arrays]), CENTROIDS).blocks, strict=True):
        np.testing.assert_array_equal(one.starts, other.starts)
        np.testing.assert_array_equal(one.passages, other.passages)


@pytest.mark.parametrize("level", levels_here(), ids=lambda level: level.name)
@pytest.mark.parametrize("count", [1, 5, 16, 40, 70])
def test_no_approximate_score_is_above_its_bound(snapshot: Snapshot, count: int, level: Level) -> None:
    """Whatever the number of query vectors, also where they take several calls; and bounds are worth something."""
    query = random_vectors(np.random.default_rng(count), count, 16)
    bounds, scores = _bounds(snapshot, query, level), _approximate(snapshot, query)
    assert (bounds >= scores).all()
    assert bounds.min() < scores.max()
    np.testing.assert_array_equal(_bounds(snapshot, query, level, threads=3), bounds)


@pytest.mark.parametrize("level", levels_here(), ids=lambda level: level.name)
def test_a_bound_equals_its_definition(snapshot: Snapshot, level: Level) -> None:
    """The best byte counts where it is above the floor, which is the sixth greatest of 64, and else the floor.

    An outlier above the floor counts beside the best centroid.
    """
    query = random_query(16, 13)
    (rows,) = byte_rows(prepare_query(query, snapshot.codec, level), snapshot.table, snapshot.centroids)
    floors = np.sort(rows.centroids, axis=0)[-6].astype(np.int64)
    expected, outliers = [], rows.outliers.astype(np.int64)
    for touched in (segment.centroids for segment in snapshot.segments):
        ids = np.split(rows.centroids[touched.ids].astype(np.int64), touched.offsets[1:-1])
        own = np.split(outliers[: len(touched.outlier_scales)], touched.outlier_offsets[1:-1])
        outliers = outliers[len(touched.outlier_scales) :]
        for mine, far in zip(ids, own, strict=True):
            above = np.maximum(mine.max(axis=0) - floors, 0)
            expected.append(int((above + np.maximum(far.max(axis=0, initial=0), floors)).sum()))
    np.testing.assert_array_equal(_bounds(snapshot, query, level), expected)


def test_what_may_not_be_found_is_neither_bounded_nor_counted(snapshot: Snapshot) -> None:
    """Two thirds are left out; the rest has the bounds that it always has."""
    query, allowed = random_query(16), np.arange(150) % 3 == 0
    bounded = _bounded(snapshot, query, allowed)
    np.testing.assert_array_equal(bounded.bounds, np.where(allowed, _bounds(snapshot, query), -1))
    assert bounded.total == 50
    assert set(bounded.score_between(0, 10**6)[0].tolist()) == set(np.flatnonzero(allowed).tolist())


@given(seed=st.integers(0, 10**6), asked=st.lists(st.tuples(st.sampled_from("rks"), st.integers(1, 1200)), max_size=8))
def test_bounded_scores_say_what_a_scan_of_all_says(
    snapshot: Snapshot, seed: int, asked: list[tuple[str, int]]
) -> None:
    """Asked for anything in any order; what they know at once lies on both sides of the truth."""
    rng = np.random.default_rng(seed)
    query, allowed = random_vectors(rng, 6, 16), rng.random(150) < rng.random()
    bounded = _bounded(snapshot, query, allowed)
    plain = ApproximateScores.of(np.where(allowed, _approximate(snapshot, query), -1), _exact)
    assert bounded.total == plain.total
    for what, number in asked:
        least, most = (np.cumsum(one[::-1]) for one in bounded.limits(number))
        true = np.cumsum(plain.limits(number)[0][::-1])
        assert (least[-1] if len(least) else 0) <= (true[-1] if len(true) else 0) <= (most[-1] if len(most) else 0)
        if what == "r" and plain.total:
            assert bounded.reached_by(min(number, plain.total)) == plain.reached_by(min(number, plain.total))
        elif what == "k":
            for _ in range(10):  # of 150 passages the eighth time knows all
                bounded.know_more(number)
            for one in bounded.limits(number):
                np.testing.assert_array_equal(np.trim_zeros(one, "b"), np.trim_zeros(plain.limits(number)[0], "b"))
        else:
            for mine, wanted in zip(
                bounded.score_between(number, number + 50), plain.score_between(number, number + 50), strict=True
            ):
                np.testing.assert_array_equal(mine, wanted)


@given(seed=st.integers(0, 10**6), k=st.integers(1, 20), tolerance=st.sampled_from([0.01, 0.2, np.inf]))
def test_the_same_candidates_are_scored(snapshot: Snapshot, seed: int, k: int, tolerance: float) -> None:
    """As many, and the very same."""
    query = random_vectors(np.random.default_rng(seed), 6, 16)
    plain = ApproximateScores.of(_approximate(snapshot, query), _exact)
    ours = score_candidates(_bounded(snapshot, query, snapshot.live), k, first=30, tolerance=tolerance)
    theirs = score_candidates(plain, k, first=30, tolerance=tolerance)
    np.testing.assert_array_equal(ours.passages, theirs.passages)
    np.testing.assert_array_equal(ours.scores, theirs.scores)
    assert ours.count == theirs.count


def bound_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bound however small an index is, and however short its passages are."""
    monkeypatch.setattr(scorer, "BOUNDED_IDS", 1)
    monkeypatch.setattr(scorer, "BOUNDED_EACH", 0)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_search_that_bounds_finds_what_one_that_scans_finds(
    snapshot: Snapshot, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hits, scores, and how many passages were scored."""
    monkeypatch.setattr(scorer.CpuScorer, "exhaustive_bytes", {"fast": 0, "balanced": 0, "exact": np.inf})
    query = random_query(16)
    scanned = rank(snapshot, query, 5, candidates=20, threads=threads)
    asked: list[object] = []
    bound_all(monkeypatch)
    monkeypatch.setattr(scorer, "upper_bounds", lambda *a, **how: asked.append(a) or upper_bounds(*a, **how))
    for _ in range(2):
        assert rank(snapshot, query, 5, candidates=20, threads=threads) == scanned
    assert asked


def test_few_of_many_passages_are_scanned_without_bounds(snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    """A filter that leaves a tenth does not pay for the postings of all, nor does the first search of a snapshot."""
    bound_all(monkeypatch)
    fresh = CpuScorer(snapshot.table, snapshot.codec, snapshot.centroids)
    made = [
        fresh.prepare(random_query(16), np.arange(150) % step == 0).approximate().__class__ for step in (10, 1, 10, 5)
    ]
    assert made == [ApproximateScores, ApproximateScores, ApproximateScores, BoundedScores]


def test_short_passages_are_scanned_without_bounds(snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many they are: the number of ids that they have on average decides."""
    each = snapshot.table.centroid_ids / snapshot.table.passages
    for least, kind in ((each, BoundedScores), (each + 0.01, ApproximateScores)):
        bound_all(monkeypatch)
        monkeypatch.setattr(scorer, "BOUNDED_EACH", least)
        fresh = CpuScorer(snapshot.table, snapshot.codec, snapshot.centroids)
        scores = [fresh.prepare(random_query(16), snapshot.live).approximate() for _ in range(2)]
        assert isinstance(scores[1], kind)


def test_a_scorer_takes_the_postings_of_the_version_before(snapshot: Snapshot) -> None:
    """Where that made any."""
    first = CpuScorer(snapshot.table, snapshot.codec, snapshot.centroids)
    unasked = CpuScorer(snapshot.table, snapshot.codec, snapshot.centroids, first)
    assert unasked.postings.blocks[0] is not first.postings.blocks[0]
    second = CpuScorer(snapshot.table, snapshot.codec, snapshot.centroids, first)
    assert second.postings.blocks[0] is first.postings.blocks[0]


def test_a_version_after_one_that_bounds_does_so_from_its_first_search_on(
    snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its postings are nearly made already."""
    bound_all(monkeypatch)
    first = CpuScorer(snapshot.table, snapshot.codec, snapshot.centroids)
    assert first.postings.blocks
    second = CpuScorer(snapshot.table, snapshot.codec, snapshot.centroids, first)
    assert isinstance(second.prepare(random_query(16), snapshot.live).approximate(), BoundedScores)

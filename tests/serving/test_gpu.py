"""The kernels of a GPU against the definition and the processor's: equal bit for bit.

Without a GPU Triton's interpreter runs them. That proves what they compute, not how fast, and not that a compiler
keeps it so: for the latter see test_gpu_compiled.py, and on a machine with a GPU `python -m benchmarks.gpu`.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from index_format.codec import unpack
from index_format.errors import InputError
from index_format.rotation import Rotation
from serving.device import choose_device
from serving.passes import Wanted, passes, rank_together
from serving.search import rank, search
from serving.snapshot import Snapshot, open_snapshot
from tests.serving.vectors import (
    Document,
    Vectors,
    all_vectors,
    by_definition,
    random_documents,
    random_index,
    random_query,
    random_snapshot,
    random_vectors,
    write_documents,
)
from tests.strategies import delete, publish

pytest.importorskip("triton", reason="Triton, which the kernels of a GPU need, is there for Linux on x86-64 alone")

PROJECT = Path(__file__).parents[2]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
AROUND_TILES = [1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65]
SHORT = [3, 1, 16, 17, 5]


def _scorer(snapshot: Snapshot, previous: Any = None, **how: Any) -> Any:
    """The product's scorer for a GPU, over the segments of a snapshot."""
    from serving.gpu.resident import upload
    from serving.gpu.scorer import GpuScorer

    codec, centroids = snapshot.codec, snapshot.centroids
    held = previous.resident if previous else None
    resident = upload(snapshot.segments, codec, centroids, torch.device(DEVICE), previous=held, **how)
    return GpuScorer(resident, codec, centroids)


def _on_gpu(snapshot: Snapshot) -> Snapshot:
    """The same snapshot, scored by the other kernels."""
    other = open_snapshot(snapshot._index, snapshot.manifest)
    other.__dict__["scorer"] = _scorer(other)
    return other


def _maxsim(snapshot: Snapshot, query: Vectors, **how: Any) -> Vectors:
    """The GPU's score of every passage, as those of a list."""
    scorer = _scorer(snapshot, **how).prepare(query, snapshot.live)
    scores: Vectors = scorer.maxsim(np.arange(len(snapshot.live)))
    return scores


@pytest.mark.parametrize(
    ("bits", "dim", "lengths"),
    [(bits, dim, lengths) for bits in (1, 2, 4, 8) for dim, lengths in ((8, SHORT), (24, SHORT), (128, AROUND_TILES))]
    + [(4, 24, [1, 4000, 2]), (2, 384, SHORT)],
)
def test_maxsim_equals_its_definition_bit_for_bit(bits: int, dim: int, lengths: list[int], tmp_path: Path) -> None:
    """Passages around the size of a tile, and a very long one; rows that fill a step of a product, and that do not."""
    snapshot = random_snapshot(tmp_path, random_documents(1, [lengths], dim), bits=bits)
    expected = by_definition(random_query(dim), snapshot)
    np.testing.assert_array_equal(_maxsim(snapshot, random_query(dim)), expected)
    every = _scorer(snapshot).prepare(random_query(dim), snapshot.live).best(len(lengths))
    np.testing.assert_array_equal(every.scores, expected)


@pytest.mark.parametrize("count", [1, 15, 16, 17, 33, 64, 65, 130])
def test_any_number_of_query_vectors_is_scored_in_their_order(count: int, tmp_path: Path) -> None:
    """As many as one launch takes, one less, one more, and more than one launch takes."""
    snapshot = random_snapshot(tmp_path, random_documents(2, [[7, 1, 30]], 16))
    query = random_query(16, count)
    np.testing.assert_array_equal(_maxsim(snapshot, query), by_definition(query, snapshot))


@pytest.mark.parametrize(("bits", "dim"), [(1, 1024), (8, 1024), (8, 8)])
def test_codes_and_queries_at_their_extremes_are_still_exact(bits: int, dim: int, tmp_path: Path) -> None:
    """All levels at either end of their range: the greatest integers that a score can meet."""
    rotated = np.random.default_rng(2).choice([-1, 1], size=(12, dim)).astype(np.float32)
    rotated[:4] = [[-1], [1], [-1], [1]]
    signs = Rotation.drawn(dim).undo(rotated)
    sample = np.concatenate([signs, -signs])  # its mean is zero, so every code is the lowest or the highest
    documents = [Document(f"d{n}", [signs[n : n + 1] / np.float32(dim**0.5)]) for n in range(12)]
    snapshot = random_snapshot(tmp_path, documents, bits=bits, sample=sample)
    assert set(np.unique(unpack(snapshot.segments[0].codes.codes, bits))) == {0, 2**bits - 1}
    np.testing.assert_array_equal(_maxsim(snapshot, signs[:6]), by_definition(signs[:6], snapshot))


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    """Thirty documents in four segments, some deleted; every third repeats the one before, so that scores tie."""
    lengths = np.random.default_rng(3).integers(1, 40, size=(30, 1)).tolist()
    documents = random_documents(4, lengths, 16)
    for number in range(2, 30, 3):
        documents[number] = dataclasses.replace(documents[number], passages=documents[number - 1].passages)
    parts = [documents[:3], documents[3:4], documents[4:20], documents[20:]]
    index, _ = random_index(tmp_path_factory.mktemp("cache"), *parts)
    delete(index, "doc-000", "doc-007", "doc-021")
    return open_snapshot(index)


@pytest.mark.parametrize("count", [1, 5, 40, 70])
def test_approximate_scores_are_those_of_the_processor(snapshot: Snapshot, count: int) -> None:
    """For every passage that may be found, and in their histogram; the others are not among them."""
    found = snapshot.live & (np.arange(30) % 4 != 1)
    ours = _scorer(snapshot).prepare(random_query(16, count), found).approximate()
    theirs = snapshot.scorer.prepare(random_query(16, count), found).approximate()
    np.testing.assert_array_equal(np.trim_zeros(ours.counts, "b"), theirs.counts)
    middle = int(np.median(np.flatnonzero(theirs.counts)))
    for span in ((0, len(ours.counts)), (middle, middle + 1), (0, middle)):
        for mine, wanted in zip(ours.score_between(*span), theirs.score_between(*span), strict=True):
            np.testing.assert_array_equal(mine, wanted)


def test_wide_centroid_ids_are_read_as_narrow_ones(snapshot: Snapshot) -> None:
    """Four bytes an id, as with more than 65,536 centroids."""
    wide = open_snapshot(snapshot._index, snapshot.manifest)
    for segment in wide.segments:
        held = segment.centroids
        segment.__dict__["centroids"] = dataclasses.replace(held, ids=held.ids.astype(np.uint32))
    narrow = snapshot.scorer.prepare(random_query(16), snapshot.live).approximate()
    ours = _scorer(wide).prepare(random_query(16), snapshot.live).approximate()
    np.testing.assert_array_equal(ours.score_between(0, 10**6)[1], narrow.score_between(0, 10**6)[1])


@pytest.mark.parametrize("how", [{"recall": "exact"}, {"candidates": 5}], ids=str)
@pytest.mark.parametrize("k", [1, 7, 1000])
def test_hits_are_those_of_the_processor(snapshot: Snapshot, k: int, how: dict[str, Any]) -> None:
    """The same passages, scores and order, ties by document id, over many segments and with deletions."""
    query = random_query(16, 6)
    ours, theirs = rank(_on_gpu(snapshot), query, k, **how), rank(snapshot, query, k, **how)
    assert (ours.passages, ours.scores) == (theirs.passages, theirs.scores)
    assert ours.scored == theirs.scored


def test_one_scorer_answers_different_queries_and_choices_in_turn(snapshot: Snapshot) -> None:
    """Its buffers are used again, and nothing of the query before is left in them."""
    scorer = _scorer(snapshot)
    everything, some = snapshot.live, snapshot.live & (np.arange(30) < 9)
    for count, found in ((6, everything), (3, some), (40, everything), (6, some), (6, everything)):
        ours = scorer.prepare(random_query(16, count), found).best(3)
        scores = np.where(found, by_definition(random_query(16, count), snapshot), -np.inf)
        expected = np.flatnonzero(scores >= np.sort(scores)[-3])
        np.testing.assert_array_equal(ours.passages, expected)
        np.testing.assert_array_equal(ours.scores, scores[expected])
        assert ours.count == found.sum()


def test_a_new_version_uploads_only_what_is_new(tmp_path: Path) -> None:
    """A deletion uploads nothing, a new segment only itself, and what no version needs is let go."""
    documents = random_documents(5, [[4], [5], [6], [7]], 16)
    index, recipe = random_index(tmp_path, documents[:2], documents[2:3], sample=all_vectors(documents))
    first = _scorer(open_snapshot(index))
    delete(index, "doc-000")
    after_delete = _scorer(open_snapshot(index), previous=first)
    assert after_delete.resident.uploads == first.resident.uploads
    delete(index, "doc-001")
    publish(index, recipe, write_documents(index, recipe, documents[3:]))
    newest = open_snapshot(index)
    scorer = _scorer(newest, previous=after_delete)
    shared = [key for key, held in scorer.resident.uploads.items() if held is first.resident.uploads.get(key)]
    assert sorted(shared) == sorted(f"segments/{newest.segments[0].record.id}/" + key.split("/")[2] for key in shared)
    assert (len(shared), len(scorer.resident.uploads)) == (2, 4)
    scores = scorer.prepare(random_query(16), newest.live).maxsim(np.arange(2))
    np.testing.assert_array_equal(scores, by_definition(random_query(16), newest))


@pytest.mark.parametrize("room", [0, 400])
def test_codes_that_do_not_fit_stay_in_host_memory_and_score_the_same(snapshot: Snapshot, room: int) -> None:
    """None of them on the device, or some; then only 'exact' reads all of them."""
    query = random_query(16)
    np.testing.assert_array_equal(_maxsim(snapshot, query, room=room), by_definition(query, snapshot))
    scorer = _scorer(snapshot, room=room)
    assert any(held.on_device for held in scorer.resident.uploads.values())
    assert [scorer.exhaustive_bytes[recall] for recall in ("fast", "balanced", "exact")] == [0, 0, np.inf]


@pytest.mark.parametrize("run", [1, 2, 32])
def test_scores_do_not_depend_on_how_many_passages_a_program_takes(
    snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch, run: int
) -> None:
    """One after the other or all at once, by few programs or many; more query vectors than one launch takes, too."""
    monkeypatch.setattr("serving.gpu.launches._RUN", run)
    query, found = random_query(16, 70), snapshot.live & (np.arange(30) % 6 != 2)
    expected = by_definition(query, snapshot)
    scorer = _scorer(snapshot)
    best = scorer.prepare(query, found).best(30)
    parts = query[:9], query[9:30]
    for part, ours in zip(parts, scorer.best_of_several(parts, found, 30), strict=True):
        np.testing.assert_array_equal(ours.scores, by_definition(part, snapshot)[found])
    np.testing.assert_array_equal(best.passages, np.flatnonzero(found))
    np.testing.assert_array_equal(best.scores, expected[found])
    np.testing.assert_array_equal(_maxsim(snapshot, query), expected)


def test_all_that_tie_with_the_last_hit_are_found(monkeypatch: pytest.MonkeyPatch, snapshot: Snapshot) -> None:
    """More than are put in order on the device: which of them come first is decided by their documents."""
    monkeypatch.setattr("serving.gpu.scorer._MOST_HITS", 2)
    query, found = np.zeros((3, 16), np.float32), snapshot.live
    for hits in (
        _scorer(snapshot).prepare(query, found).best(2),
        *_scorer(snapshot).best_of_several([query], found, 2),
    ):
        np.testing.assert_array_equal(hits.passages, np.flatnonzero(found))
        np.testing.assert_array_equal(hits.scores, by_definition(query, snapshot)[found])


def test_more_hits_than_leave_the_device_in_order_are_found(
    monkeypatch: pytest.MonkeyPatch, snapshot: Snapshot
) -> None:
    """A server asks for few, Python for as many as it likes."""
    monkeypatch.setattr("serving.gpu.scorer._MOST_HITS", 2)
    query, found = random_vectors(np.random.default_rng(3), 4, 16), snapshot.live
    for k in (3, 10**6):
        best = _scorer(snapshot).prepare(query, found).best(k)
        highest = np.sort(by_definition(query, snapshot)[found])[::-1][:k]
        np.testing.assert_array_equal(np.sort(best.scores)[::-1][:k], highest)


@pytest.mark.parametrize("counts", [[5, 3], [1, 1, 1], [12] * 5, [63, 1]], ids=str)
def test_queries_that_share_a_launch_have_what_each_has_alone(snapshot: Snapshot, counts: list[int]) -> None:
    """The best k of each with its ties, over segments and deletions; and the same buffers serve the next ones."""
    scorer, some = _scorer(snapshot), snapshot.live & (np.arange(30) % 6 != 2)
    queries = [random_query(16, count) * np.float32(1 + number) for number, count in enumerate(counts)]
    for found in (snapshot.live, some):
        for query, ours in zip(queries, scorer.best_of_several(queries, found, 3), strict=True):
            scores = np.where(found, by_definition(query, snapshot), -np.inf)
            expected = np.flatnonzero(scores >= np.sort(scores)[-3])
            np.testing.assert_array_equal(ours.passages, expected)
            np.testing.assert_array_equal(ours.scores, scores[expected])
            assert ours.count == found.sum()


def test_hits_of_queries_that_share_a_launch_are_those_of_the_processor(snapshot: Snapshot) -> None:
    """Whatever number of them each asks for."""
    wanted = [Wanted(random_query(16, k), k, "exact", snapshot.everything) for k in (1, 7, 3)]
    ours = _on_gpu(snapshot)
    assert passes(ours, dict(enumerate(wanted))) == [[0, 1, 2]]
    for one, ranking in zip(wanted, rank_together(ours, wanted), strict=True):
        assert ranking == rank(snapshot, one.vectors, one.k, recall="exact")


def test_launches_are_shared_up_to_their_lanes_and_by_eight_queries(snapshot: Snapshot) -> None:
    """A query that fills a launch has it for itself."""
    sharing = _scorer(snapshot).sharing
    assert [len(own) for own in sharing([12] * 7)] == [5, 2]
    assert [len(own) for own in sharing([1] * 20)] == [8, 8, 4]
    assert [len(own) for own in sharing([64, 100, 3, 4])] == [1, 1, 2]


def test_where_nothing_may_be_found_nothing_is(snapshot: Snapshot) -> None:
    """By neither stage."""
    scorer = _scorer(snapshot).prepare(random_query(16), np.zeros(30, bool))
    assert (scorer.best(3).passages.tolist(), scorer.approximate().counts.tolist()) == ([], [])


def test_an_index_without_documents_has_no_hits(tmp_path: Path) -> None:
    """Its device has nothing to hold, and a search nothing to score."""
    index, _ = random_index(tmp_path, random_documents(1, [[3]], 16))
    delete(index, "doc-000")
    empty = _on_gpu(open_snapshot(index))
    assert search(empty, random_query(16), 3, recall="exact") == []
    assert search(empty, random_query(16), 3, candidates=4) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_processor_is_chosen_and_a_gpu_refused() -> None:
    """`auto` falls back; `cuda` says why not."""
    assert (choose_device("auto"), choose_device("cpu")) == ("cpu", "cpu")
    with pytest.raises(InputError, match="torch finds no GPU here"):
        choose_device("cuda")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, which it would be timed on")
def test_the_benchmark_checks_and_writes_what_it_found_without_a_gpu(tmp_path: Path) -> None:
    """On a machine with a GPU the same command checks more, and times it."""
    output = tmp_path / "gpu.json"
    command = [sys.executable, "-m", "benchmarks.gpu", "--output", str(output)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(output.read_text())["gpu"]
    assert (report["checked"], report["device"]) == (16, "none: interpreted")

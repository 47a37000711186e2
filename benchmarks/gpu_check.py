"""The part of benchmarks/gpu.py that compares: every kernel against the definition, or the processor's kernels."""

from __future__ import annotations

import itertools
import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.gpu_index import HostSegment, host_segments
from index_format.codebook import Codebook
from index_format.codec import Codec
from serving.approximate import CodedCentroids
from serving.gpu.resident import upload
from serving.gpu.scorer import GpuScorer
from serving.kernels.segments import SegmentTable
from serving.oracle import coded_maxsim
from serving.scorer import CpuScorer

CENTROIDS = 50
AROUND_TILES = (1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65)
CALLS = ("at first", "replayed")
"""Of two calls alike the first compiles kernels and records a graph, the second replays it."""


def check(device: torch.device, *, thorough: bool) -> int:
    """Compare scores for all bits, and for dimensions and numbers of query vectors around those of a launch.

    Returns how many passages' scores were equal. Raises SystemExit at the first that differ. A GPU's kernels are
    compiled for each case, which takes most of the time: in as many processes as there are processors.
    """
    lengths = [*AROUND_TILES, 4000, *range(1, 200)] if thorough else [1, 17, 64, 65]
    dims, counts = ((8, 96, 128, 384), (1, 32, 64, 65)) if thorough else ((24,), (3,))
    cases = list(itertools.product((1, 2, 4, 8), dims, counts))
    if device.type != "cuda":
        return sum(_check_one(device, lengths, *case) for case in cases)
    with ProcessPoolExecutor(min(len(cases), os.cpu_count() or 1), get_context("spawn")) as pool:
        checked = [pool.submit(_check_one, device, lengths, *case) for case in cases]
        return sum(one.result() for one in checked)


def random_query(vectors: int, dim: int, seed: int = 0) -> NDArray[np.float32]:
    """Unit vectors float32 [vectors, dim]."""
    drawn = np.random.default_rng(seed).normal(size=(vectors, dim))
    return np.asarray(drawn / np.linalg.norm(drawn, axis=1, keepdims=True), np.float32)


def _check_one(device: torch.device, lengths: list[int], bits: int, dim: int, count: int) -> int:
    codec = Codec(random_query(1, dim, 1)[0] / 10, bits)
    segments = host_segments(codec, lengths, centroids=CENTROIDS)
    centroids, query = CodedCentroids.of(Codebook.of(random_query(CENTROIDS, dim, 2))), random_query(count, dim)
    found = np.arange(len(lengths)) % 5 != 3
    everything, expected = np.arange(len(lengths)), _by_definition(query, codec, segments)
    case = f"{bits} bits, {dim} dimensions, {count} query vectors"
    table = SegmentTable.of([segment.arrays for segment in segments])
    rough = CpuScorer(table, codec, centroids).prepare(query, found).approximate()
    for room in (None, 0):
        resident = upload(segments, codec, centroids, device, room=room)  # type: ignore[arg-type]  # all that it reads
        scorer = GpuScorer(resident, codec, centroids)
        for call in CALLS if device.type == "cuda" else CALLS[:1]:
            one = scorer.prepare(query, found)
            best, approximate = one.best(len(lengths)), one.approximate()
            _refuse(best.passages, everything[found], f"{case}, best passages, {call}")
            _refuse(best.scores, expected[found], f"{case}, best scores, {call}")
            ours, theirs = approximate.score_between(0, 1 << 30), rough.score_between(0, 1 << 30)
            _refuse(ours[0], theirs[0], f"{case}, passages with approximate scores, {call}")
            _refuse(ours[1], theirs[1], f"{case}, approximate scores, {call}")
            _refuse(ours[2], expected[found], f"{case}, scores of candidates, {call}")
            if count > 1 and scorer.sharing([1, count - 1]) == [range(2)]:
                parts = query[:1], query[1:]
                for part, several in zip(parts, scorer.best_of_several(parts, found, len(lengths)), strict=True):
                    own = _by_definition(part, codec, segments)[found]
                    _refuse(several.scores, own, f"{case}, {len(part)} of them beside the others, {call}")
        _refuse(scorer.prepare(query, found).maxsim(everything), expected, f"{case}, scores of a list")
    return len(lengths)


def _by_definition(query: NDArray[np.float32], codec: Codec, segments: list[HostSegment]) -> NDArray[np.float32]:
    scores = []
    for own in (segment.codes for segment in segments):
        for start, end in itertools.pairwise(own.offsets):
            scores.append(coded_maxsim(query, codec, own.codes[start:end], own.scales[start:end]))
    return np.array(scores)


def _refuse(ours: NDArray[np.generic], theirs: NDArray[np.generic], what: str) -> None:
    if not np.array_equal(ours, theirs):
        raise SystemExit(f"{what}: they differ.\nExpected {theirs}\nGot {ours}")

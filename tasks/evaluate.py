"""What the answers of a version are worth: against judgements, beside exhaustive search, BM25 and both together."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from encoding.encoder import load_encoder_of
from index_format.change import live_documents
from index_format.errors import InputError
from index_format.index import Index
from index_format.manifest import Manifest
from index_format.npz import forget
from index_format.segment import Codes
from serving.candidates import ApproximateScores, Scored
from serving.hybrid import Fusion, rank_hybrid, rank_words
from serving.scorer import EXHAUSTIVE_BYTES, CpuQueryScorer
from serving.search import Ranking, Recall, rank
from serving.snapshot import Snapshot, open_snapshot
from tasks.device import gpu_claimed
from tasks.measures import DEPTH, Judgements, PerQuery, mean, measure, overlap
from tasks.prefect_task import as_task

EXACT = "exhaustive search"

_THREADS = os.cpu_count() or 1
_FIRST_PASSAGES = 200  # of a ranking; more until they have DEPTH documents
_SAMPLE_TOKENS = 24  # of a passage that stands for a query
_SEED = 20
_FEW_QUERIES = 20
_MAPPED_TOGETHER = 2 * 2**20  # bytes of a file: so much may be in memory around what is read of it
_STRETCHES_AT_ONCE = 8  # of so many bytes, whose codes are in memory
_MOST_TOKENS = 20_000_000  # some ten seconds for those queries on two cores


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One version, measured. recall_10: the share of an exhaustive search's ten best documents that is found.

    served: the measures of answers as a server gives them. exact: those when every passage is scored.
    per_query: the measures of each query, as served. others: those of an exhaustive search, and of BM25 and the hybrid
    searches where they were asked for, by name. All are empty where there were no judgements.
    """

    version: int
    encoder: str
    queries: int
    recall_10: float
    served: dict[str, float] = field(default_factory=dict)
    exact: dict[str, float] = field(default_factory=dict)
    per_query: PerQuery = field(default_factory=dict)
    others: dict[str, PerQuery] = field(default_factory=dict)


def evaluate(
    address: str,
    manifest: Manifest,
    queries: Mapping[str, str],
    judgements: Judgements,
    encoder: str | None = None,
    *,
    words: bool = False,
) -> Evaluation:
    """Measure a version, published or not, by judged queries.

    encoder: where the version's encoder is now. words: whether BM25 and the hybrid searches are measured beside it.
    """
    snapshot = open_snapshot(Index.at(address), manifest)
    with gpu_claimed():
        loaded = load_encoder_of(manifest.encoder, encoder)
        vectors = [loaded.encode_query(text) for text in queries.values()]
    served = dict(zip(queries, rankings(snapshot, vectors, "balanced"), strict=True))
    exact = dict(zip(queries, rankings(snapshot, vectors, "exact"), strict=True))
    per_query = measure(judgements, served)
    others = {EXACT: measure(judgements, exact)}
    if words:
        for name, found in _word_rankings(snapshot, list(queries.values()), vectors).items():
            others[name] = measure(judgements, dict(zip(queries, found, strict=True)))
    return Evaluation(
        version=manifest.version,
        encoder=manifest.encoder.name,
        queries=len(queries),
        recall_10=overlap(list(served.values()), list(exact.values())),
        served=mean(per_query),
        exact=mean(others[EXACT]),
        per_query=per_query,
        others=others,
    )


evaluate_task = as_task(evaluate, "evaluate")


def evaluate_sample(address: str, manifest: Manifest, count: int, reference: Manifest | None = None) -> Evaluation:
    """Measure the recall of a version against an exhaustive search, by `count` passages that stand for queries.

    Passages and exhaustive search are of `reference`, which has vectors of the same encoder; by default its own.
    Documents that the two do not hold alike count for neither. Raises InputError where there are no others.
    """
    snapshot = open_snapshot(Index.at(address), manifest)
    measure_of = snapshot if reference is None else open_snapshot(Index.at(address), reference)
    vectors = sample_queries(measure_of, count)
    served, exact = rankings(snapshot, vectors, "balanced"), rankings(measure_of, vectors, "exact")
    if reference is not None:
        alike = _alike(snapshot, measure_of)
        if not alike:
            raise InputError(
                f"{address}: versions {manifest.version} and {reference.version} hold no document alike, so what one "
                "finds of the other's tells nothing. Compare them by questions with known answers "
                "(--queries and --judgements, or judged in the flow's parameters)."
            )
        served, exact = _only(served, alike), _only(exact, alike)
    return Evaluation(manifest.version, manifest.encoder.name, len(vectors), overlap(served, exact))


evaluate_sample_task = as_task(evaluate_sample, "evaluate by a sample")


def _alike(one: Snapshot, other: Snapshot) -> set[str]:
    """The ids of documents that are live in both with the same content."""
    there = {name: place.content_hash for name, place in live_documents(other.segments).items()}
    return {name for name, place in live_documents(one.segments).items() if there.get(name) == place.content_hash}


def _only(found: list[list[str]], wanted: set[str]) -> list[list[str]]:
    return [[document for document in ranking if document in wanted] for ranking in found]


def recall_of_exact(address: str, version: int) -> float | None:
    """What of an exhaustive search's ten best a search finds, by a few passages of the version that stand for queries.

    Cheap enough to be asked after each run: 1 where a search scores every passage anyway, and None where scoring
    them all would take minutes; an evaluation measures it there.
    """
    manifest = Index.at(address).version(version)
    tokens = sum(segment.tokens for segment in manifest.segments)
    if tokens * Index.at(address).codec(manifest).row_bytes <= EXHAUSTIVE_BYTES["balanced"]:
        return 1.0
    return evaluate_sample(address, manifest, _FEW_QUERIES).recall_10 if tokens <= _MOST_TOKENS else None


recall_of_exact_task = as_task(recall_of_exact, "recall of exact search")


def rankings(snapshot: Snapshot, queries: Sequence[NDArray[np.float32]], recall: Recall) -> list[list[str]]:
    """The ids of the best documents for each query, each at the place of its best passage; at most DEPTH."""
    return [_documents(snapshot, partial(_rank, snapshot, vectors, recall)) for vectors in queries]


def _word_rankings(
    snapshot: Snapshot, texts: Sequence[str], queries: Sequence[NDArray[np.float32]]
) -> dict[str, list[list[str]]]:
    """The same for BM25 alone, and for both ways to add it to MaxSim, by name."""
    found = {"BM25": [_documents(snapshot, partial(rank_words, snapshot, text)) for text in texts]}
    for fusion in (Fusion("rank"), Fusion("weight")):
        found[f"hybrid by {fusion.by}"] = [
            _documents(snapshot, partial(_rank_both, snapshot, text, vectors, fusion))
            for text, vectors in zip(texts, queries, strict=True)
        ]
    return found


def sample_queries(snapshot: Snapshot, count: int) -> list[NDArray[np.float32]]:
    """The first token vectors of some live passages, as queries float32 [Q, D]. The same ones for the same version."""
    live = np.flatnonzero(snapshot.live)
    chosen = np.random.default_rng(_SEED).choice(live, min(count, len(live)), replace=False)
    queries = []
    for passage in np.sort(chosen).tolist():
        segment, ordinal = snapshot.place(passage)
        start, end = segment.codes.offsets[ordinal : ordinal + 2].tolist()
        rows = slice(start, min(end, start + _SAMPLE_TOKENS))
        queries.append(snapshot.codec.decompress(segment.codes.codes[rows], segment.codes.scales[rows]))
    return queries


def _rank(snapshot: Snapshot, vectors: NDArray[np.float32], recall: Recall, k: int) -> Ranking:
    found = snapshot.everything.mask
    prepared = snapshot.scorer.prepare(vectors, found, threads=_THREADS)
    if isinstance(prepared, CpuQueryScorer):  # the codes that a GPU reads are not in this process's memory
        prepared = _SparingScorer(snapshot, prepared, found)
    return rank(snapshot, vectors, k, recall=recall, prepared=prepared)


@dataclass(frozen=True, slots=True)
class _SparingScorer:
    """Scores some passages after the other, and gives back the codes that it read.

    A run that measures a large index would else hold all of it in memory.
    """

    _snapshot: Snapshot
    _scorer: CpuQueryScorer
    _found: NDArray[np.bool_]

    def best(self, k: int) -> Scored:  # noqa: ARG002  # all are scored, and the search itself takes the best
        passages = np.flatnonzero(self._found)
        return Scored(passages, self.maxsim(passages), len(passages))

    def approximate(self) -> ApproximateScores:
        scores = self._scorer.scan_all()
        for segment in self._snapshot.segments:
            forget(segment.centroids.ids)
        return ApproximateScores.of(scores, self.maxsim)

    def maxsim(self, passages: NDArray[np.int64]) -> NDArray[np.float32]:
        firsts = self._snapshot.first_passages
        parts = []
        for segment, first, last in zip(self._snapshot.segments, firsts[:-1], firsts[1:], strict=True):
            own = passages[np.searchsorted(passages, first) : np.searchsorted(passages, last)]
            for together in _stretches(segment.codes, own - first):
                parts.append(self._scorer.maxsim(together + first))
                forget(segment.codes.codes)
        return np.concatenate(parts) if parts else np.zeros(0, np.float32)


def _stretches(codes: Codes, ordinals: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Passages of a segment, ascending, in parts that bring few stretches of its codes into memory: scattered ones a
    few at a time, neighbours many."""
    if not len(ordinals):
        return []
    begins = codes.offsets[ordinals].astype(np.int64) * codes.codes.shape[1] // _MAPPED_TOGETHER
    part = (np.cumsum(np.diff(begins, prepend=begins[0]) > 0)) // _STRETCHES_AT_ONCE
    return np.split(ordinals, np.flatnonzero(np.diff(part)) + 1)


def _rank_both(snapshot: Snapshot, text: str, vectors: NDArray[np.float32], fusion: Fusion, k: int) -> Ranking:
    return rank_hybrid(snapshot, text, vectors, k, fusion=fusion, threads=_THREADS)


def _documents(snapshot: Snapshot, best: Callable[[int], Ranking]) -> list[str]:
    """The best documents of a ranking, at most DEPTH. best: its best passages, as many as asked for."""
    wanted = _FIRST_PASSAGES
    while True:
        passages = best(wanted).passages
        places = [snapshot.place(passage) for passage in passages]
        found = list(dict.fromkeys(segment.document_id(ordinal) for segment, ordinal in places))
        if len(found) >= DEPTH or len(passages) < wanted:
            return found[:DEPTH]
        wanted *= 4

"""The whole road: the flow builds an index of a collection, the searcher's own steps answer its queries."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks.exact import FloatMaxSim, Observer, Queries, SeenTexts, WholeVectors, document_scores, observing
from benchmarks.judged import Collection, Quality, Ranking, measure, rank
from benchmarks.variants import Variant, VariantsObserver, fit_residual
from encoding.checkpoint import EMBEDDED
from encoding.encoder import load_encoder
from flows.build_index import build_index
from flows.parameters import BuildParameters
from flows.summary import Summary
from index_format.index import Index
from index_format.manifest import FileRef, Manifest
from serving.search import Hit, search
from serving.snapshot import Snapshot, open_snapshot
from tasks.measures import DEPTH, overlap
from tasks.rows import Source

Variants = Literal["ours", "all"]

BITS = 4
DEEP_K = 400  # passages, to have a hundred documents where a document has several
SHALLOW_K = 10  # what a person asks for: the k that search is timed with


@dataclass(frozen=True, slots=True)
class Bytes:
    """The files of an index by kind, and all of them for each token."""

    by_file: dict[str, int]
    total: int
    per_token: float
    per_passage: float


@dataclass(frozen=True, slots=True)
class Speed:
    """Seconds of each stage of the build, without the time of the observers, and milliseconds of a query."""

    seconds: dict[str, float]
    observer_seconds: float
    encode_query_p50_ms: float
    search_p50_ms: float
    search_p95_ms: float


@dataclass(frozen=True, slots=True)
class Road:
    """What was built, how good its answers are beside exact MaxSim on the same vectors, and what it costs.

    single_vector: the model's one vector of each passage, a document being as good as its best.
    variants: how good answers would be with other codecs, bits and pooling, where that was asked for.
    """

    documents: int
    passages: int
    tokens: int
    segments: int
    centroids: int
    single_vector: Quality
    exact: Quality
    colonnade: Quality
    shallow_ndcg_10: float
    overlap_10: float
    fewest_documents: int
    bytes: Bytes
    speed: Speed
    variants: list[Variant] | None


def take_road(collection: Collection, folder: Path, variants: Variants | None) -> Road:
    """Build an index of a collection in `folder`, ask all queries, and measure.

    variants: which other ways of keeping vectors are measured on the way, ours or all.
    """
    encoder = load_encoder(EMBEDDED)
    encoder.encode_query("warm")
    queries, encode_ms = [], []
    for text in collection.queries:
        started = time.perf_counter()
        queries.append(encoder.encode_query(text))
        encode_ms.append(1000 * (time.perf_counter() - started))
    maxsim, whole = FloatMaxSim(Queries(queries)), WholeVectors(queries)
    residual = fit_residual(collection, encoder) if variants == "all" else None
    varied = VariantsObserver(queries, encoder, residual) if variants else None
    observers: list[Observer] = [maxsim, whole, *([varied] if varied else [])]
    with observing(encoder.checkpoint, observers):
        summary = _build(collection, folder)
    observed = sum(observer.seconds for observer in observers)
    snapshot = open_snapshot(Index.at(folder))
    exact, single = (_ranking(seen.calls, snapshot, collection) for seen in (maxsim, whole))
    shallow, search_ms = _timed_searches(snapshot, queries)
    deep = _deep_searches(snapshot, queries)
    return Road(
        documents=summary.added,
        passages=summary.passages,
        tokens=summary.tokens,
        segments=len(snapshot.segments),
        centroids=snapshot.manifest.codebook.centroids,
        single_vector=measure(collection, single),
        exact=measure(collection, exact),
        colonnade=measure(collection, deep),
        shallow_ndcg_10=measure(collection, shallow).ndcg_10,
        overlap_10=overlap(deep, exact),
        fewest_documents=min(map(len, deep)),
        bytes=_bytes(snapshot.manifest),
        speed=Speed(
            seconds=summary.seconds | {"encode": round(summary.seconds["encode"] - observed, 3)},
            observer_seconds=round(observed, 3),
            encode_query_p50_ms=float(np.percentile(encode_ms, 50)),
            search_p50_ms=float(np.percentile(search_ms, 50)),
            search_p95_ms=float(np.percentile(search_ms, 95)),
        ),
        variants=varied.variants(collection, snapshot) if varied else None,
    )


def _ranking(calls: Sequence[SeenTexts], snapshot: Snapshot, collection: Collection) -> Ranking:
    return rank(document_scores(calls, snapshot, collection.document_ids), collection.document_ids)


def _build(collection: Collection, folder: Path) -> Summary:
    source = Source(location=str(collection.corpus), id_column="doc_id")
    return build_index(BuildParameters(source=source, index=str(folder), bits=BITS))


def _timed_searches(snapshot: Snapshot, queries: Sequence[NDArray[np.float32]]) -> tuple[Ranking, list[float]]:
    """The documents of the best few passages of each query, one query after another, and each one's time."""
    search(snapshot, queries[0], SHALLOW_K)
    ranking, milliseconds = [], []
    for vectors in queries:
        started = time.perf_counter()
        hits = search(snapshot, vectors, SHALLOW_K)
        milliseconds.append(1000 * (time.perf_counter() - started))
        ranking.append(_documents(hits))
    return ranking, milliseconds


def _deep_searches(snapshot: Snapshot, queries: Sequence[NDArray[np.float32]]) -> Ranking:
    """The documents of many passages of each query, several queries at a time: these are not timed."""
    records = snapshot.manifest.segments
    single = sum(one.passages for one in records) == sum(one.documents for one in records)
    k = DEPTH if single else DEEP_K
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        return list(threads.map(lambda vectors: _documents(search(snapshot, vectors, k))[:DEPTH], queries))


def _documents(hits: Sequence[Hit]) -> list[str]:
    """Ids of the documents of some passages, each at the place of its best one."""
    return list(dict.fromkeys(hit.document_id for hit in hits))


def _bytes(manifest: Manifest) -> Bytes:
    segments = manifest.segments
    by_file = {
        "documents.parquet": _size(segment.documents_file for segment in segments),
        "passages.parquet": _size(segment.passages_file for segment in segments),
        "codes.npz": _size(segment.codes_file for segment in segments),
        "centroids.npz": _size(segment.centroids_file for segment in segments),
        "codebook": manifest.codebook.file.size,
        "codec": manifest.codec.file.size,
    }
    total = sum(by_file.values())
    tokens, passages = sum(one.tokens for one in segments), sum(one.passages for one in segments)
    return Bytes(by_file, total, per_token=total / tokens, per_passage=total / passages)


def _size(files: Iterable[FileRef]) -> int:
    return sum(file.size for file in files)

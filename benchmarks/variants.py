"""What codec, bits and pooling cost in quality, beside exact MaxSim, BM25 and a single vector.

    python -m benchmarks.variants DATA_FOLDER --sets limit-small,scifact

A collection is cut and encoded once, as a build does it. Each batch is pooled by every factor, and the vectors go
through the real codec at every width and back before they meet the queries, and through ColBERT's. So a row is what
an index of these settings answers when it is scored whole; what candidates cost beyond that is `benchmarks.quality`'s
matter.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from benchmarks import quantile_residual
from benchmarks.baselines import bm25_scores, single_vector_scores
from benchmarks.environment import Environment, environment
from benchmarks.exact import Batch, FloatMaxSim, SeenTexts
from benchmarks.judged import Collection, Quality, load_collection, measure, overlap, rank
from benchmarks.report import Figures, print_table
from benchmarks.results import Results, load, save
from encoding.checkpoint import EMBEDDED
from encoding.chunking import Chunker
from encoding.encoder import Encoder, load_encoder
from encoding.pooling import pool_tokens
from index_format.codec import BITS, Codec

POOL_FACTORS = (1, 2, 3)
_CALIBRATION_DOCUMENTS = 32  # as a build takes them for the mean of its codec
_RESIDUAL_SAMPLE = 2_000  # passages that the centroids and buckets of ColBERT's codec are made from
_SCALE_BYTES = 2
BASELINES = ("BM25", "single vector")

Restore = Callable[[NDArray[np.float32]], NDArray[np.float32]]


@dataclass(slots=True)
class Way:
    """One way to keep vectors: pooled or not, and what they are after compression and decompression.

    bits: None for float32 vectors. token_bytes: for each vector. error: the sum of squared errors so far, and norm:
    of squared lengths.
    """

    codec: str
    pool_factor: int
    bits: int | None
    token_bytes: float
    restore: Restore
    error: float = 0.0
    norm: float = 0.0

    def through(self, batch: Batch) -> Batch:
        """The batch after its vectors were compressed and decompressed."""
        vectors = np.concatenate([own for _, own in batch])
        restored = self.restore(vectors)
        self.error += float(((restored - vectors) ** 2).sum())
        self.norm += float((vectors**2).sum())
        ends = np.cumsum([len(own) for _, own in batch])[:-1]
        return list(zip([position for position, _ in batch], np.split(restored, ends), strict=True))


@dataclass(frozen=True, slots=True)
class Variant:
    """What a way gave. token_bytes: for each token of text, pooled or not. error: squared, relative to float32.

    overlap_10: the share of the ten best passages by exact MaxSim of the same vectors that are among its own ten.
    """

    codec: str
    pool_factor: int
    bits: int | None
    token_bytes: float
    error: float
    overlap_10: float
    quality: Quality


@dataclass(frozen=True, slots=True)
class Variants:
    """All that was measured on one collection with one encoder."""

    encoder: str
    passages: int
    tokens: int
    baselines: dict[str, Quality]
    variants: list[Variant]
    environment: Environment


@dataclass(frozen=True, slots=True)
class Passages:
    """The passages of a collection as they are encoded, and the number of each one's document."""

    texts: list[str]
    documents: NDArray[np.int64]


def measure_variants(collection: Collection, encoder: Encoder, command: str) -> Variants:
    """Encode a collection once and score it in every way."""
    started = environment(command)
    passages = _cut(collection, encoder)
    scorer = FloatMaxSim([encoder.encode_query(query) for query in collection.queries])
    ways = [*_direct(passages, encoder), *_residual(passages, encoder)]
    seen = [scorer.begin(passages.texts) for _ in ways]
    kept = dict.fromkeys(POOL_FACTORS, 0)
    for batch in track(encoder.encode(passages.texts), description=collection.name, total=None):
        for factor in POOL_FACTORS:
            pooled = _pooled(batch, encoder, factor)
            kept[factor] += sum(len(vectors) for _, vectors in pooled)
            for way, own in zip(ways, seen, strict=True):
                if way.pool_factor == factor:
                    scorer.look(own, way.through(pooled))
    exact = {way.pool_factor: own for way, own in zip(ways, seen, strict=True) if way.bits is None}
    variants = [
        Variant(
            codec=way.codec,
            pool_factor=way.pool_factor,
            bits=way.bits,
            token_bytes=kept[way.pool_factor] / kept[1] * way.token_bytes,
            error=way.error / way.norm,
            overlap_10=_overlap(own, exact[way.pool_factor]),
            quality=_quality(collection, passages, own),
        )
        for way, own in zip(ways, seen, strict=True)
    ]
    scores = zip(BASELINES, (bm25_scores(collection), single_vector_scores(collection)), strict=True)
    baselines = {name: measure(collection, rank(one, collection.document_ids)) for name, one in scores}
    return Variants(encoder.checkpoint.name, len(passages.texts), kept[1], baselines, variants, started)


def _cut(collection: Collection, encoder: Encoder) -> Passages:
    chunker = Chunker(encoder.tokenizer, passage_tokens=encoder.checkpoint.max_tokens, markers=encoder.document_markers)
    corpus = pq.read_table(collection.corpus, columns=["title", "text"]).to_pydict()
    own = [chunker.passages(text, title) for title, text in zip(corpus["title"], corpus["text"], strict=True)]
    texts = [passage.encoded_text for passages in own for passage in passages]
    return Passages(texts, np.repeat(np.arange(len(own)), [len(one) for one in own]))


def _direct(passages: Passages, encoder: Encoder) -> Iterator[Way]:
    """float32 and our codec at every width, for each factor."""
    documents = np.unique(np.linspace(0, passages.documents[-1], _CALIBRATION_DOCUMENTS).astype(int))
    chosen = np.flatnonzero(np.isin(passages.documents, documents))
    sample: Batch = [pair for batch in encoder.encode([passages.texts[one] for one in chosen]) for pair in batch]
    dim = encoder.checkpoint.dim
    for factor in POOL_FACTORS:
        yield Way("float32", factor, None, 4 * dim, lambda vectors: vectors)
        mean = np.concatenate([vectors for _, vectors in _pooled(sample, encoder, factor)]).mean(axis=0)
        for bits in BITS:
            codec = Codec(mean=np.asarray(mean, np.float32), bits=bits)
            yield Way("direct", factor, bits, codec.row_bytes + _SCALE_BYTES, _there_and_back(codec))


def _there_and_back(codec: Codec) -> Restore:
    return lambda vectors: codec.decompress(*codec.compress(vectors))


def _residual(passages: Passages, encoder: Encoder) -> list[Way]:
    """ColBERT's codec, fitted on a sample of the passages."""
    chosen = np.unique(np.linspace(0, len(passages.texts) - 1, _RESIDUAL_SAMPLE).astype(int))
    encoded = encoder.encode([passages.texts[one] for one in chosen])
    sample = np.concatenate([vectors for batch in encoded for _, vectors in batch])
    tokens = len(sample) * len(passages.texts) // len(chosen)
    fitted = quantile_residual.fit(sample, tokens, BITS)
    return [Way("quantile residual", 1, one.bits, one.token_bytes, one.restored) for one in fitted]


def _pooled(batch: Batch, encoder: Encoder, factor: int) -> Batch:
    if factor == 1:
        return batch
    return [(position, pool_tokens(vectors, factor, protected=encoder.protected)) for position, vectors in batch]


def _overlap(seen: SeenTexts, exact: SeenTexts) -> float:
    """Of passages, not of documents: what a codec changes shows there first."""
    names = [f"{number:09d}" for number in range(seen.scores.shape[1])]
    return overlap(rank(seen.scores, names), rank(exact.scores, names))


def _quality(collection: Collection, passages: Passages, seen: SeenTexts) -> Quality:
    """A document is as good as its best passage."""
    scores_DQ = np.full((len(collection.document_ids), len(seen.scores)), -np.inf, np.float32)
    np.maximum.at(scores_DQ, passages.documents, seen.scores.T)
    return measure(collection, rank(scores_DQ.T, collection.document_ids))


def tables(results: Results) -> list[Figures]:
    """One row for each way of answering, one column for each collection; then what each codec loses."""
    first = next(iter(results.values()))["variants"]
    quality = [[name, "", *(_cell(one["baselines"][name]) for one in results.values())] for name in BASELINES]
    losses = []
    for number, variant in enumerate(first):
        own = [one["variants"][number] for one in results.values()]
        head = [_name(variant), f"{variant['token_bytes']:,.0f}"]
        quality.append([*head, *(_cell(one["quality"]) for one in own)])
        if variant["bits"] is not None and variant["pool_factor"] == 1:
            losses.append([*head, *(f"{one['error']:.4f} / {one['overlap_10']:.3f}" for one in own)])
    columns = ["", "bytes a vector", *results]
    return [
        Figures("nDCG@10 / Recall@100 by codec, bits and pooling", ["", "bytes a token", *results], quality),
        Figures("Relative squared error / share of the ten best passages", columns, losses),
    ]


def _name(variant: dict[str, Any]) -> str:
    name = "exact MaxSim" if variant["bits"] is None else f"{variant['codec']}, {variant['bits']} bits"
    return name if variant["pool_factor"] == 1 else f"{name}, pooled by {variant['pool_factor']}"


def _cell(quality: dict[str, float]) -> str:
    return f"{quality['ndcg_10']:.3f} / {quality['recall_100']:.3f}"


def _arguments(arguments: Sequence[str]) -> argparse.Namespace:
    output = Path(__file__).parent / "results" / f"variants-{datetime.now(UTC):%Y-%m-%d}.json"
    parser = argparse.ArgumentParser(prog="python -m benchmarks.variants", description=__doc__)
    parser.add_argument("data", type=Path, help="folder of collections")
    parser.add_argument("--sets", default="limit-small,scifact,limit-like-5k,medquad", help="by commas: %(default)s")
    parser.add_argument("--encoder", default=EMBEDDED, help="as for `colonnade build`: %(default)s")
    parser.add_argument("--output", type=Path, default=output, help="JSON file to add the results to")
    return parser.parse_args(arguments)


def main() -> None:
    """Measure what the command line asks for, print one table and keep the figures."""
    arguments = _arguments(sys.argv[1:])
    command = " ".join(["python -m benchmarks.variants", *sys.argv[1:]])
    results: Results = load(arguments.output) if arguments.output.exists() else {}
    for name in arguments.sets.split(","):
        measured = measure_variants(load_collection(arguments.data / name), load_encoder(arguments.encoder), command)
        results = save(arguments.output, name, measured)
    for figures in tables(results):
        print_table(Console(width=max(120, Console().width)), figures)


if __name__ == "__main__":
    main()

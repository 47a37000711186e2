"""What bits and pooling cost in quality: one table of all of them, beside exact MaxSim, BM25 and a single vector.

    python -m benchmarks.variants DATA_FOLDER --sets limit-small,scifact

A collection is cut and encoded once, as a build does it. Each batch is pooled by every factor, and the vectors go
through the real codec at every width and back before they meet the queries. So a row is what an index of these
settings answers when it is scored whole; what candidates cost beyond that is `benchmarks.quality`'s matter.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from rich.console import Console

from benchmarks.baselines import bm25_scores, single_vector_scores
from benchmarks.environment import Environment, environment
from benchmarks.exact import Batch, FloatMaxSim, SeenTexts
from benchmarks.judged import Collection, Quality, load_collection, measure, rank
from benchmarks.report import Figures, print_table
from benchmarks.results import Results, load, save
from encoding.checkpoint import EMBEDDED
from encoding.chunking import Chunker
from encoding.encoder import Encoder, load_encoder
from encoding.pooling import pool_tokens
from index_format.codec import BITS, Codec

POOL_FACTORS = (1, 2, 3)
_CALIBRATION_DOCUMENTS = 32  # as a build takes them for the mean of its codec
_SCALE_BYTES = 2
BASELINES = ("BM25", "single vector")


@dataclass(frozen=True, slots=True)
class Variant:
    """bits: None for float32 vectors. token_bytes: bytes of codes for each token of text, pooled or not."""

    pool_factor: int
    bits: int | None
    token_bytes: float
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
    codecs = _codecs(passages, encoder)
    seen = {key: scorer.begin(passages.texts) for key in codecs}
    kept = dict.fromkeys(POOL_FACTORS, 0)
    for batch in encoder.encode(passages.texts):
        for factor in POOL_FACTORS:
            pooled = _pooled(batch, encoder, factor)
            kept[factor] += sum(len(vectors) for _, vectors in pooled)
            for bits in (None, *BITS):
                scorer.look(seen[factor, bits], _through(codecs[factor, bits], pooled))
    variants = [
        Variant(
            factor,
            bits,
            kept[factor] / kept[1] * (4 * encoder.checkpoint.dim if codec is None else codec.row_bytes + _SCALE_BYTES),
            _quality(collection, passages, seen[factor, bits]),
        )
        for (factor, bits), codec in codecs.items()
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


def _codecs(passages: Passages, encoder: Encoder) -> dict[tuple[int, int | None], Codec | None]:
    """A codec for each factor and width; None stands for float32."""
    documents = np.unique(np.linspace(0, passages.documents[-1], _CALIBRATION_DOCUMENTS).astype(int))
    chosen = np.flatnonzero(np.isin(passages.documents, documents))
    sample: Batch = [pair for batch in encoder.encode([passages.texts[one] for one in chosen]) for pair in batch]
    codecs: dict[tuple[int, int | None], Codec | None] = {}
    for factor in POOL_FACTORS:
        mean = np.concatenate([vectors for _, vectors in _pooled(sample, encoder, factor)]).mean(axis=0)
        codecs[factor, None] = None
        codecs |= {(factor, bits): Codec(mean=np.asarray(mean, np.float32), bits=bits) for bits in BITS}
    return codecs


def _pooled(batch: Batch, encoder: Encoder, factor: int) -> Batch:
    if factor == 1:
        return batch
    protected = int(encoder.checkpoint.layout.keep_markers)
    return [(position, pool_tokens(vectors, factor, protected=protected)) for position, vectors in batch]


def _through(codec: Codec | None, batch: Batch) -> Batch:
    """The batch after its vectors were compressed and decompressed."""
    if codec is None:
        return batch
    restored = codec.decompress(*codec.compress(np.concatenate([vectors for _, vectors in batch])))
    ends = np.cumsum([len(vectors) for _, vectors in batch])[:-1]
    return list(zip([position for position, _ in batch], np.split(restored, ends), strict=True))


def _quality(collection: Collection, passages: Passages, seen: SeenTexts) -> Quality:
    """A document is as good as its best passage."""
    scores_DQ = np.full((len(collection.document_ids), len(seen.scores)), -np.inf, np.float32)
    np.maximum.at(scores_DQ, passages.documents, seen.scores.T)
    return measure(collection, rank(scores_DQ.T, collection.document_ids))


def table(results: Results) -> Figures:
    """One row for each way of answering, one column for each collection."""
    first = next(iter(results.values()))
    rows = [[name, "", *(_cell(one["baselines"][name]) for one in results.values())] for name in BASELINES]
    for number, variant in enumerate(first["variants"]):
        name = "exact MaxSim" if variant["bits"] is None else f"{variant['bits']} bits"
        pooled = "" if variant["pool_factor"] == 1 else f", pooled by {variant['pool_factor']}"
        cells = [_cell(one["variants"][number]["quality"]) for one in results.values()]
        rows.append([name + pooled, f"{variant['token_bytes']:,.0f}", *cells])
    return Figures("nDCG@10 / Recall@100 by bits and pooling", ["", "bytes a token", *results], rows)


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
    print_table(Console(width=max(120, Console().width)), table(results))


if __name__ == "__main__":
    main()

"""How fast documents become token vectors, beside sentence-transformers' own encode, on the same texts and threads.

    python -m benchmarks.encoding DATA_FOLDER
    python -m benchmarks.encoding --device cuda      # the share of a GPU's speed that encoding uses: encoding_share.py

Both encode the same passages of one collection with the embedded model in float32, in turn, several times; what
else the machine does then meets both. Pooling is timed on the vectors that came out. Figures are medians.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

from benchmarks.encoding_share import BERT_BASE, measure_share
from benchmarks.environment import Environment, environment
from benchmarks.judged import load_collection
from benchmarks.results import save
from encoding.checkpoint import EMBEDDED
from encoding.chunking import Chunker
from encoding.encoder import Encoder, load_encoder
from encoding.pooling import pool_batch

POOL_FACTORS = (2, 3)


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of each round, by the wall clock and on the processors, and medians (wall)."""

    wall: list[float]
    processor: list[float]
    tokens_per_second: float
    passages_per_second: float


@dataclass(frozen=True, slots=True)
class EncodingSpeed:
    """Both encoders on the same passages. A ratio is the median over rounds of their time by ours.

    tokens: those that the model reads, markers included. padded_share: of what goes through it, tokens that only fill
    a batch. pooling_share: seconds of pooling by those of encoding.
    """

    passages: int
    tokens: int
    padded_share: float
    threads: int
    colonnade: Timing
    sentence_transformers: Timing
    wall_ratio: float
    processor_ratio: float
    pooling_share: dict[str, float]
    environment: Environment


def measure_encoding(texts: Sequence[str], rounds: int, command: str) -> EncodingSpeed:
    """Encode the texts with both, in turn."""
    started = environment(command)
    encoder = load_encoder(EMBEDDED)
    model = SentenceTransformer(str(encoder.checkpoint.folder), device="cpu")
    vectors: list[NDArray[np.float32]] = []

    def ours() -> None:
        vectors[:] = [one for batch in encoder.encode(texts) for _, one in batch]

    def theirs() -> None:
        model.encode(list(texts), output_value="token_embeddings", show_progress_bar=False)

    warm = list(texts[:20])
    model.encode(warm, output_value="token_embeddings", show_progress_bar=False)
    list(encoder.encode(warm))
    tokens = sum(len(one.ids) for one in encoder.tokenizer.encode_batch([text[:20_000] for text in texts]))
    times = [(_timed(ours), _timed(theirs)) for _ in range(rounds)]
    our_times, their_times = ([pair[side] for pair in times] for side in (0, 1))
    encode_processor = statistics.median(own[1] for own in our_times)
    return EncodingSpeed(
        passages=len(texts),
        tokens=tokens,
        padded_share=padded_share(encoder, texts),
        threads=torch.get_num_threads(),
        colonnade=_timing(our_times, tokens, len(texts)),
        sentence_transformers=_timing(their_times, tokens, len(texts)),
        wall_ratio=statistics.median(their[0] / own[0] for own, their in times),
        processor_ratio=statistics.median(their[1] / own[1] for own, their in times),
        pooling_share={str(factor): _pooling_seconds(vectors, factor) / encode_processor for factor in POOL_FACTORS},
        environment=started,
    )


def passages_of(encoder: Encoder, texts: Sequence[str], most: int) -> list[str]:
    """The first passages of some texts, as a build cuts them."""
    chunker = Chunker(encoder.tokenizer, passage_tokens=encoder.checkpoint.max_tokens)
    found: list[str] = []
    for text in texts:
        found += [one.encoded_text for one in chunker.passages(text)]
        if len(found) >= most:
            break
    return found[:most]


def padded_share(encoder: Encoder, texts: Sequence[str]) -> float:
    """The share of padding in all that goes through the model when these texts are encoded together."""
    lengths = [[len(one.ids) for one in tokens] for _, tokens in encoder.batches(texts)]
    return 1 - sum(map(sum, lengths)) / sum(len(one) * max(one) for one in lengths)


def _timed(work: Callable[[], None]) -> tuple[float, float]:
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - processor


def _timing(times: Sequence[tuple[float, float]], tokens: int, passages: int) -> Timing:
    wall, processor = [own[0] for own in times], [own[1] for own in times]
    median = statistics.median(wall)
    return Timing(wall, processor, tokens / median, passages / median)


def _pooling_seconds(vectors: Sequence[NDArray[np.float32]], factor: int) -> float:
    """Processor seconds, as the encoder pools: the least of three, as it is soon done."""
    return min(_timed(lambda: pool_batch(vectors, factor, protected=0))[1] for _ in range(3))


def _report_share(output: Path, rounds: int, command: str) -> None:
    """Measure on a GPU, print and keep the figures."""
    measured = measure_share(BERT_BASE, "cuda", rounds, POOL_FACTORS, command)
    save(output, "share-of-cuda", measured)
    print(f"{measured.device}, {measured.dtype}: {measured.passages_per_second:,.0f} passages/s of {BERT_BASE.tokens}")
    print(f"{measured.model_flops_per_second / 1e12:.0f} TFLOP/s, {100 * measured.share:.1f} % of what matmul does")
    for factor, rate in measured.pooled_passages_per_second.items():
        print(f"pooled by {factor}: {rate:,.0f} passages/s")


def main() -> None:
    """Measure, print and keep the figures."""
    output = Path(__file__).parent / "results" / f"encoding-{datetime.now(UTC):%Y-%m-%d}.json"
    parser = argparse.ArgumentParser(prog="python -m benchmarks.encoding", description=__doc__)
    parser.add_argument("data", type=Path, nargs="?", help="folder of collections; for a processor")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="what encodes: %(default)s")
    parser.add_argument("--set", default="scifact", help="collection to take passages of: %(default)s")
    parser.add_argument("--passages", type=int, default=256, help="how many: %(default)s")
    parser.add_argument("--rounds", type=int, default=5, help="how many times each: %(default)s")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of both: %(default)s")
    parser.add_argument("--output", type=Path, default=output, help="JSON file to add the results to")
    arguments = parser.parse_args()
    command = " ".join(["python -m benchmarks.encoding", *sys.argv[1:]])
    if arguments.device == "cuda":
        _report_share(arguments.output, arguments.rounds, command)
        return
    if arguments.data is None:
        parser.error("DATA is needed: the folder of collections")
    torch.set_num_threads(arguments.threads)
    texts = load_collection(arguments.data / arguments.set).texts
    passages = passages_of(load_encoder(EMBEDDED), texts, arguments.passages)
    speed = measure_encoding(passages, arguments.rounds, command)
    save(arguments.output, f"{arguments.set}-{arguments.passages}-threads-{arguments.threads}", speed)
    print(f"{speed.passages} passages, {speed.tokens:,} tokens, {speed.threads} threads")
    for name, timing in (("colonnade", speed.colonnade), ("sentence-transformers", speed.sentence_transformers)):
        print(f"{name:24}{timing.tokens_per_second:10,.0f} tokens/s{timing.passages_per_second:10.1f} passages/s")
    print(f"{speed.wall_ratio:.2f} times by the clock, {speed.processor_ratio:.2f} times in processor time")
    print(f"padding: {100 * speed.padded_share:.2f} % of the tokens in batches")
    for factor, share in speed.pooling_share.items():
        print(f"pooling by {factor}: {100 * share:.1f} % of encoding")


if __name__ == "__main__":
    main()

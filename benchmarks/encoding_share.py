"""How much of a device's matrix multiplication encoding uses: `python -m benchmarks.encoding --device cuda`.

The model has the shape of BERT-base and random weights, in a temporary folder in the plain layout with a projection to
128 dimensions: speed does not depend on what weights say, and nothing is fetched. Texts are random words, each one
token of the embedded model's vocabulary, all of one length, so that no time goes into padding. They pass through the
whole of `Encoder.encode`: tokenised, encoded, brought to the processor's memory, and pooled where that is asked for.

The ceiling is what `torch.matmul` of two large square matrices does on that device in the model's own type.

FLOPs of the model are counted from its shape, two for a multiplication and its addition: for each token 2 · layers ·
(4 · hidden² + 2 · hidden · intermediate) for the products with weights, 4 · layers · tokens · hidden for attention,
2 · hidden · 128 for the projection. Embeddings, norms, activations and softmax are not counted.
"""

from __future__ import annotations

import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import BertConfig, BertModel

from benchmarks.environment import Environment, environment
from encoding.checkpoint import EMBEDDED, open_checkpoint
from encoding.encoder import Encoder
from encoding.inputs import load_tokenizer
from encoding.layouts.files import TOKENIZER

DIM = 128
_MARKERS = 2
_SEED = 20


@dataclass(frozen=True, slots=True)
class Shape:
    """A transformer, the texts that it is given, and the matrices of the ceiling."""

    layers: int = 12
    hidden: int = 768
    heads: int = 12
    intermediate: int = 3072
    tokens: int = 180  # of each text, markers included
    passages: int = 16_384
    matrix: int = 8192

    @property
    def flops_a_passage(self) -> int:
        """Of one text, as the module says."""
        weights = self.layers * (4 * self.hidden**2 + 2 * self.hidden * self.intermediate) + self.hidden * DIM
        return self.tokens * (2 * weights + 4 * self.layers * self.tokens * self.hidden)


BERT_BASE = Shape()


@dataclass(frozen=True, slots=True)
class EncodingShare:
    """Encoding on one device. seconds: of each round. share: the model's FLOPs a second by those of the ceiling.

    pooled_passages_per_second: by the factor of pooling.
    """

    device: str
    dtype: str
    shape: dict[str, int]
    flops_a_passage: int
    ceiling_flops_per_second: float
    seconds: list[float]
    passages_per_second: float
    model_flops_per_second: float
    share: float
    pooled_passages_per_second: dict[str, float]
    environment: Environment


def measure_share(shape: Shape, device: str, rounds: int, pool_factors: Sequence[int], command: str) -> EncodingShare:
    """Encode all texts some times over, and as often for each factor of pooling; figures are of the median round."""
    started = environment(command)
    with tempfile.TemporaryDirectory() as folder:
        encoder = Encoder(open_checkpoint(write_checkpoint(Path(folder), shape)), device)
        texts = texts_of(encoder, shape)
        seconds = _seconds(lambda: _encode(encoder, texts, 1), rounds)
        pooled = {
            str(factor): len(texts) / statistics.median(_seconds(lambda: _encode(encoder, texts, factor), rounds))  # noqa: B023
            for factor in pool_factors
        }
    dtype = torch.bfloat16 if device == "cuda" else torch.float32  # the model's
    ceiling = matmul_flops(shape.matrix, device, dtype)
    rate = len(texts) / statistics.median(seconds)
    return EncodingShare(
        device=torch.cuda.get_device_name() if device == "cuda" else "cpu",
        dtype=str(dtype).removeprefix("torch."),
        shape=asdict(shape),
        flops_a_passage=shape.flops_a_passage,
        ceiling_flops_per_second=ceiling,
        seconds=seconds,
        passages_per_second=rate,
        model_flops_per_second=rate * shape.flops_a_passage,
        share=rate * shape.flops_a_passage / ceiling,
        pooled_passages_per_second=pooled,
        environment=started,
    )


def write_checkpoint(folder: Path, shape: Shape) -> str:
    """A checkpoint of that shape with random weights and the embedded model's tokenizer; returns its folder."""
    embedded = open_checkpoint(EMBEDDED)
    shutil.copy(embedded.layout.backbone / TOKENIZER, folder)
    config = BertConfig(
        vocab_size=load_tokenizer(embedded.layout).get_vocab_size(),
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        intermediate_size=shape.intermediate,
    )
    torch.manual_seed(_SEED)
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    dense = folder / "1_Dense"
    dense.mkdir()
    save_file({"linear.weight": torch.randn(DIM, shape.hidden) / shape.hidden**0.5}, dense / "model.safetensors")
    _write_json(dense / "config.json", {"activation_function": "torch.nn.modules.linear.Identity"})
    kinds = {"Transformer": "", "Dense": dense.name}
    modules = [
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for number, (kind, path) in enumerate(kinds.items())
    ]
    _write_json(folder / "modules.json", modules)
    return str(folder)


def texts_of(encoder: Encoder, shape: Shape) -> list[str]:
    """Texts of `tokens` tokens each: words that the vocabulary has whole."""
    words = np.array(sorted(one for one in encoder.tokenizer.get_vocab() if one.isascii() and one.isalpha()))
    drawn = np.random.default_rng(_SEED).choice(words, (shape.passages, shape.tokens - _MARKERS))
    return [" ".join(row) for row in drawn.tolist()]


def matmul_flops(size: int, device: str, dtype: torch.dtype, rounds: int = 20) -> float:
    """FLOPs a second of products of two square matrices: the best of some rounds."""
    one, other = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))

    def multiply() -> None:
        torch.matmul(one, other)
        if device == "cuda":
            torch.cuda.synchronize()

    return 2 * size**3 / min(_seconds(multiply, rounds))


def _encode(encoder: Encoder, texts: Sequence[str], pool_factor: int) -> None:
    assert sum(len(batch) for batch in encoder.encode(texts, pool_factor)) == len(texts)


def _seconds(work: Callable[[], None], rounds: int) -> list[float]:
    """Of each round, after one that is not counted."""
    work()
    found = []
    for _ in range(rounds):
        started = time.perf_counter()
        work()
        found.append(time.perf_counter() - started)
    return found


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")

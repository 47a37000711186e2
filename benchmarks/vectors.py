"""Token vectors of real text, once for all engines: the embedded encoder's, brought to 128 dimensions.

Passages are documents of judged collections, cut at sentence ends; queries are SciFact's claims, with no padding.
The projection is a PCA fitted on a sample of the same vectors, centred, and every vector has length 1: peers
and papers measure at 128 dimensions.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from rich.progress import track

from encoding.checkpoint import EMBEDDED
from encoding.chunking import Chunker
from encoding.encoder import Encoder, load_encoder

DIM = 128
PASSAGE_TOKENS = 180
CORPORA = ("scifact", "medquad")
_SAMPLE = 200_000
_BLOCK = 512  # passages encoded at once
_CACHE = Path(__file__).parent.parent / ".bench"


def prepare_vectors(data: Path, passages: int) -> Path:
    """The folder with the vectors of that many passages, made when it is not there yet."""
    encoder = load_encoder(EMBEDDED)
    recipe = json.dumps([encoder.checkpoint.fingerprint, passages, DIM, PASSAGE_TOKENS, CORPORA, _SAMPLE])
    folder = _CACHE / f"vectors-{hashlib.sha256(recipe.encode()).hexdigest()[:16]}"
    if not (folder / "texts.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder, data, passages, encoder)
    return folder


def _write(folder: Path, data: Path, passages: int, encoder: Encoder) -> None:
    texts = _passages(data, passages, encoder)
    encoded = _encode(encoder, texts)
    queries = [
        encoder.encode_query(text) for text in pq.read_table(data / "scifact/queries.parquet")["text"].to_pylist()
    ]
    mean, axes = _fit(encoded)
    projected = [_project(one, mean, axes) for one in encoded]
    np.save(folder / "tokens.npy", np.concatenate(projected).astype(np.float16))
    np.save(folder / "offsets.npy", _offsets(projected))
    asked = [_project(one, mean, axes) for one in queries]
    np.save(folder / "queries.npy", np.concatenate(asked))
    np.save(folder / "query_offsets.npy", _offsets(asked))
    (folder / "texts.json").write_text(json.dumps(texts), encoding="utf-8")


def _passages(data: Path, wanted: int, encoder: Encoder) -> list[str]:
    chunker = Chunker(encoder.tokenizer, passage_tokens=PASSAGE_TOKENS, overlap_tokens=0)
    found: list[str] = []
    for text in _documents(data):
        found += [text[one.start : one.end] for one in chunker.passages(text, None)]
        if len(found) >= wanted:
            return found[:wanted]
    raise SystemExit(f"{', '.join(CORPORA)} in {data} have {len(found)} passages, not {wanted}. Ask for fewer.")


def _documents(data: Path) -> Iterator[str]:
    for name in CORPORA:
        corpus = pq.read_table(data / name / "corpus.parquet").to_pydict()
        for title, text in zip(corpus["title"], corpus["text"], strict=True):
            yield f"{title}. {text}" if title else text


def _encode(encoder: Encoder, texts: list[str]) -> list[NDArray[np.float16]]:
    encoded: list[NDArray[np.float16]] = []
    for start in track(range(0, len(texts), _BLOCK), description="encode passages"):
        own: dict[int, NDArray[np.float16]] = {}
        for batch in encoder.encode(texts[start : start + _BLOCK]):
            own |= {position: vectors.astype(np.float16) for position, vectors in batch}
        encoded += [own[position] for position in range(len(own))]
    return encoded


def _fit(encoded: list[NDArray[np.float16]]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The mean float32 [D] and the leading axes float32 [D, DIM] of a sample."""
    everything = np.concatenate(encoded)
    chosen = np.random.default_rng(1).choice(len(everything), min(_SAMPLE, len(everything)), replace=False)
    sample = everything[np.sort(chosen)].astype(np.float32)
    mean = sample.mean(axis=0)
    _, axes = np.linalg.eigh(np.cov(sample - mean, rowvar=False))
    return mean, np.ascontiguousarray(axes[:, ::-1][:, :DIM], np.float32)


def _project(
    vectors: NDArray[np.floating], mean: NDArray[np.float32], axes: NDArray[np.float32]
) -> NDArray[np.float32]:
    projected = (vectors.astype(np.float32) - mean) @ axes
    return np.asarray(projected / np.linalg.norm(projected, axis=1, keepdims=True), np.float32)


def _offsets(parts: list[NDArray[np.float32]]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum([len(one) for one in parts])]).astype(np.int64)

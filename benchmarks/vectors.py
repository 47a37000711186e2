"""Token vectors of real text, once for all engines: the embedded encoder's, brought to 128 dimensions.

Passages are documents of judged collections, cut at sentence ends; queries are SciFact's claims, with no padding.
The projection is a PCA fitted on the first 1,024 passages, centred, and every vector has length 1: peers and papers
measure at 128 dimensions. So the vectors of few passages are the first of those of many.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
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
_BLOCK = 512  # passages encoded, and kept, at once
_FITTED_BLOCKS = 2
_CACHE = Path(__file__).parent.parent / ".bench"

Project = Callable[[NDArray[np.floating]], NDArray[np.float32]]


def prepare_vectors(data: Path, passages: int) -> Path:
    """The folder with the vectors of that many passages, made when it is not there yet.

    What was encoded for fewer passages, or before a run was stopped, is not encoded again.
    """
    encoder = load_encoder(EMBEDDED)
    recipe = json.dumps([encoder.checkpoint.fingerprint, DIM, PASSAGE_TOKENS, CORPORA, _BLOCK, _FITTED_BLOCKS])
    name = hashlib.sha256(recipe.encode()).hexdigest()[:16]
    folder = _CACHE / f"vectors-{name}-{passages}"
    if not (folder / "texts.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder, _CACHE / f"encoded-{name}", data, passages, encoder)
    return folder


def _write(folder: Path, cache: Path, data: Path, passages: int, encoder: Encoder) -> None:
    blocks = max(_FITTED_BLOCKS, -(-passages // _BLOCK))
    texts = _passages(data, passages, blocks * _BLOCK, encoder)
    project = _projection(cache, texts, encoder)
    encoded = []
    for number in track(range(blocks), description="encode passages"):
        encoded += _block(cache, number, texts, encoder, project)
    np.save(folder / "tokens.npy", np.concatenate(encoded[:passages]))
    np.save(folder / "offsets.npy", _offsets(encoded[:passages]))
    queries = pq.read_table(data / "scifact/queries.parquet")["text"].to_pylist()
    asked = [project(encoder.encode_query(text)) for text in queries]
    np.save(folder / "queries.npy", np.concatenate(asked))
    np.save(folder / "query_offsets.npy", _offsets(asked))
    (folder / "texts.json").write_text(json.dumps(texts[:passages]), encoding="utf-8")


def _block(cache: Path, number: int, texts: list[str], encoder: Encoder, project: Project) -> list[NDArray[np.float16]]:
    """The vectors of some passages, each float16 [T, DIM], encoded where the cache does not have them."""
    file = cache / f"{number:06d}.npz"
    if not file.exists():
        raw = _encode(encoder, texts[number * _BLOCK : (number + 1) * _BLOCK])
        unnamed = file.with_suffix(".part.npz")
        vectors = project(np.concatenate(raw)).astype(np.float16)
        np.savez(unnamed, vectors=vectors, ends=_offsets(raw)[1:-1])
        unnamed.replace(file)
    with np.load(file) as kept:
        return np.split(kept["vectors"], kept["ends"])


def _projection(cache: Path, texts: list[str], encoder: Encoder) -> Project:
    """What brings vectors to DIM dimensions: fitted on the first blocks, whatever the number of passages."""
    file = cache / "projection.npz"
    if not file.exists():
        cache.mkdir(parents=True, exist_ok=True)
        mean, axes = _fit(np.concatenate(_encode(encoder, texts[: _FITTED_BLOCKS * _BLOCK])))
        np.savez(file, mean=mean, axes=axes)
    with np.load(file) as kept:
        return partial(_project, mean=kept["mean"], axes=kept["axes"])


def _passages(data: Path, wanted: int, most: int, encoder: Encoder) -> list[str]:
    chunker = Chunker(encoder.tokenizer, passage_tokens=PASSAGE_TOKENS, overlap_tokens=0)
    found: list[str] = []
    for text in _documents(data):
        found += [text[one.start : one.end] for one in chunker.passages(text, None)]
        if len(found) >= most:
            return found[:most]
    if len(found) < wanted:
        raise SystemExit(f"{', '.join(CORPORA)} in {data} have {len(found)} passages, not {wanted}. Ask for fewer.")
    return found


def _documents(data: Path) -> Iterator[str]:
    for name in CORPORA:
        corpus = pq.read_table(data / name / "corpus.parquet").to_pydict()
        for title, text in zip(corpus["title"], corpus["text"], strict=True):
            yield f"{title}. {text}" if title else text


def _encode(encoder: Encoder, texts: list[str]) -> list[NDArray[np.float16]]:
    own: dict[int, NDArray[np.float16]] = {}
    for batch in encoder.encode(texts):
        own |= {position: vectors.astype(np.float16) for position, vectors in batch}
    return [own[position] for position in range(len(own))]


def _fit(vectors: NDArray[np.float16]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The mean float32 [D] and the leading axes float32 [D, DIM]."""
    sample = vectors.astype(np.float32)
    mean = sample.mean(axis=0)
    _, axes = np.linalg.eigh(np.cov(sample - mean, rowvar=False))
    return mean, np.ascontiguousarray(axes[:, ::-1][:, :DIM], np.float32)


def _project(
    vectors: NDArray[np.floating], mean: NDArray[np.float32], axes: NDArray[np.float32]
) -> NDArray[np.float32]:
    projected = (vectors.astype(np.float32) - mean) @ axes
    return np.asarray(projected / np.linalg.norm(projected, axis=1, keepdims=True), np.float32)


def _offsets(parts: Sequence[NDArray[np.floating]]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum([len(one) for one in parts])]).astype(np.int64)

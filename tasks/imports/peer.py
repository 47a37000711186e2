"""A peer's index, the same whatever its layout: token vectors by chunk, and what its passages say.

Positions count the passages of the whole index from 0, as the peers do.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from index_format.errors import SourceError

BITS = (1, 2, 4, 8)


@dataclass(frozen=True, slots=True)
class Residuals:
    """The PLAID family's codec: a token is its centroid and a bucket for each dimension of what is left.

    centroids: float32 [C, D]. weights: float32 [2^bits], what a bucket stands for.
    """

    centroids: NDArray[np.float32]
    weights: NDArray[np.float32]

    @property
    def dim(self) -> int:
        return int(self.centroids.shape[1])

    @property
    def bits(self) -> int:
        return (len(self.weights) - 1).bit_length()

    @property
    def row_bytes(self) -> int:
        """Packed bytes of one token's residual."""
        return self.dim * self.bits // 8

    def decompress(self, codes: NDArray[np.integer], residuals: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Centroid ids [T] and packed residuals uint8 [T, row_bytes] to unit vectors float32 [T, D]."""
        vectors = self.centroids[codes]
        vectors += self._weights_of_bytes[residuals].reshape(vectors.shape)
        lengths = np.sqrt(np.einsum("td,td->t", vectors, vectors))
        return np.asarray(vectors / np.maximum(lengths, np.float32(1e-12))[:, None], np.float32)

    @property
    def _weights_of_bytes(self) -> NDArray[np.float32]:
        """The weights of the dimensions that each byte holds: the first in its highest bits, each lowest bit first."""
        bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).reshape(256, 8 // self.bits, self.bits)
        buckets = (bits.astype(np.int64) << np.arange(self.bits)).sum(axis=2)
        return np.asarray(self.weights[buckets], np.float32)


@dataclass(frozen=True, slots=True)
class Chunk:
    """The tokens of some passages that follow each other, mapped from their files.

    lengths: tokens of each passage. codes: centroid ids [T]. residuals: uint8 [T, row_bytes].
    """

    lengths: NDArray[np.int64]
    codes: NDArray[np.integer]
    residuals: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class PeerPassage:
    """What a passage says; `text` is None where nothing is known of it."""

    id: str
    text: str | None
    title: str | None
    metadata: dict[str, Any]


@dataclass(frozen=True, slots=True)
class PeerIndex:
    """An opened index whose files are all there and agree in their counts.

    chunk_lengths: tokens of each passage, by chunk. read_chunk: maps the tokens of a chunk.
    passages: what the passages say, by position; None where the index does not know.
    checkpoint: the encoder that it names. passage_tokens: how many tokens it gave a passage at most. pool_factor: about
    so many of them share a vector. None, None and 1 where it does not say.
    """

    layout: str
    folder: Path
    residuals: Residuals
    chunk_lengths: Sequence[NDArray[np.int64]]
    read_chunk: Callable[[int], Chunk]
    passages: Callable[[], Iterator[PeerPassage]] | None
    checkpoint: str | None = None
    passage_tokens: int | None = None
    pool_factor: int = 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each passage, by position; 0 for one that was deleted."""
        return np.concatenate(self.chunk_lengths)

    def checked_chunk(self, number: int) -> Chunk:
        """The tokens of a chunk. Raises SourceError when they are not as many, or not such, as the index says."""
        chunk, where = self.read_chunk(number), f"{self.folder}, chunk {number}"
        tokens = int(chunk.lengths.sum())
        expect(chunk.codes.shape == (tokens,), f"{where}: codes", f"{tokens} numbers", list(chunk.codes.shape))
        expect(np.issubdtype(chunk.codes.dtype, np.integer), f"{where}: codes", "integers", chunk.codes.dtype)
        packed = (tokens, self.residuals.row_bytes)
        expect(chunk.residuals.shape == packed, f"{where}: residuals", list(packed), list(chunk.residuals.shape))
        expect(chunk.residuals.dtype == np.uint8, f"{where}: residuals", "uint8", chunk.residuals.dtype)
        return chunk

    def check(self) -> None:
        """Open every chunk once, so that a missing or cut file is met before any work is done."""
        for number in range(len(self.chunk_lengths)):
            self.checked_chunk(number)


def expect(holds: bool, where: str, expected: object, got: object) -> None:
    """Raise SourceError unless the index is as its layout has it."""
    if not holds:
        raise SourceError(
            f"{where}: expected {expected}, got {got}. The index is damaged or half written; nothing was imported."
        )


def read_json(path: Path) -> Any:
    """A JSON file of the index. Raises SourceError."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise SourceError(f"{path} is missing: the index is not whole; nothing was imported.") from None
    except (OSError, ValueError) as error:
        raise SourceError(f"{path}: cannot be read as JSON ({error}); nothing was imported.") from error


def read_count(record: Any, name: str, where: Path) -> int:
    """A count that a JSON object of the index must have."""
    value = record.get(name) if isinstance(record, dict) else None
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise SourceError(f"{where}: {name}: expected a count, got {value!r}; nothing was imported.")
    return value


def read_lengths(path: Path) -> NDArray[np.int64]:
    """The tokens of each passage of a chunk: a JSON list of counts."""
    values = read_json(path)
    if not isinstance(values, list) or not all(type(one) is int and one >= 0 for one in values):
        raise SourceError(f"{path}: expected a list of counts; nothing was imported.")
    return np.array(values, np.int64)


def read_chunk_lengths(folder: Path, said: Any, passages: str) -> list[NDArray[np.int64]]:
    """The tokens of each passage, by chunk. passages: how the layout calls their number in a chunk's metadata.

    Raises SourceError when there is no chunk, or when one does not add up.
    """
    chunks = []
    for number in range(read_count(said, "num_chunks", folder)):
        path, where = folder / f"doclens.{number}.json", folder / f"{number}.metadata.json"
        lengths, own = read_lengths(path), read_json(where)
        count, tokens = read_count(own, passages, where), read_count(own, "num_embeddings", where)
        expect(len(lengths) == count, f"{path}: passages", count, len(lengths))
        expect(lengths.sum() == tokens, f"{path}: tokens", tokens, int(lengths.sum()))
        chunks.append(lengths)
    expect(bool(chunks), f"{folder}: chunks", "at least one", 0)
    return chunks


def checked_residuals(
    where: Path, centroids: NDArray[np.generic], weights: NDArray[np.generic], bits: int | None
) -> Residuals:
    """The codec of an index from its arrays. Raises SourceError when they cannot be one."""
    expect(centroids.ndim == 2 and len(centroids) > 0, f"{where}: centroids", "[C, D]", list(centroids.shape))
    made = Residuals(np.ascontiguousarray(centroids, np.float32), np.ascontiguousarray(weights.ravel(), np.float32))
    sizes = {2**one for one in BITS}
    expect(len(made.weights) in sizes, f"{where}: bucket weights", f"one of {sorted(sizes)}", len(made.weights))
    expect(bits in (None, made.bits), f"{where}: bits", made.bits, bits)
    expect(made.dim * made.bits % 8 == 0, f"{where}: dimensions", "whole bytes", made.dim)
    finite = np.isfinite(made.centroids).all() and np.isfinite(made.weights).all()
    expect(bool(finite), f"{where}: centroids and weights", "finite numbers", "others")
    return made

"""Where drift begins: how far texts lie from a codebook of their own kind, and from one of another kind.

    python -m benchmarks.drift DATA_FOLDER

Of each kind of text (abstracts, medical answers, package descriptions, docstrings of this Python, and manual pages in
German where the machine has any) half of the documents train a codebook, and an eighth is held out from it. The rest,
and that of the other kinds, are segments that come later. The figure is the product's (tasks/drift.py): their mean
squared distance by that of what was held out; in brackets by that of what the codebook was trained on.
A limit is good when no segment of the same kind is above it, and those of other kinds are.
"""

from __future__ import annotations

import argparse
import gzip
import random
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from benchmarks.builds import first_passages
from benchmarks.environment import Environment, environment
from benchmarks.judged import load_collection
from benchmarks.report import Figures, print_table
from benchmarks.results import default_output, save
from colonnade.demo_corpus import collect
from encoding.encoder import Encoder, load_encoder
from encoding.location import EMBEDDED
from index_format.codebook import Codebook
from tasks.train_codebook import kmeans, nearest_of

TOKENS_PER_CENTROID = (16, 64, 256)
SEGMENTS = 3  # of what comes later, some two thousand tokens each
_SEED = 20
GERMAN = Path("/usr/share/man/de/man1")
_DOCUMENTS = 2_000  # of a kind, at most
_PART = 800  # characters of a manual page that count as a document
_AT_ONCE = 32  # passages

Vectors = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Pair:
    """Segments of one kind against the codebook of another: the least and the largest ratio, by both measures."""

    trained: str
    later: str
    tokens_per_centroid: int
    least: float
    most: float
    least_by_trained: float
    most_by_trained: float


@dataclass(frozen=True, slots=True)
class Kind:
    """Token vectors of one kind of text: what a codebook is trained on, what is held out, and later segments."""

    trained: Vectors
    held_out: Vectors
    segments: list[Vectors]


@dataclass(frozen=True, slots=True)
class Drift:
    """All pairs, and how many tokens of each kind were trained on."""

    tokens: dict[str, int]
    pairs: list[Pair]
    environment: Environment


def texts_of(data: Path) -> Iterator[tuple[str, list[str]]]:
    """Kinds of text with their documents, shuffled."""
    kinds = {name: load_collection(data / name).texts for name in ("scifact", "medquad", "debdesc")}
    kinds["docstrings"] = [one.text for one in collect(_DOCUMENTS)]
    kinds["German manual"] = [part for path in sorted(GERMAN.glob("*.gz")) for part in _manual(path)]
    for name, texts in kinds.items():
        random.Random(_SEED).shuffle(texts)
        if texts:
            yield name, texts


def _manual(path: Path) -> list[str]:
    """The sentences of a manual page without its markup, in parts."""
    lines = gzip.decompress(path.read_bytes()).decode(errors="replace").splitlines()
    text = re.sub(r"\\f.|\\", "", " ".join(line for line in lines if not line.startswith((".", "'"))))
    return [text[start : start + _PART] for start in range(0, len(text) - _PART, _PART)]


def encoded(texts: list[str], tokens: int) -> Kind:
    """Encode documents until there are so many tokens, and part them."""
    encoder = load_encoder(EMBEDDED)
    passages = first_passages(encoder, texts[:_DOCUMENTS], _DOCUMENTS)
    found: list[Vectors] = []
    while sum(map(len, found)) < tokens and len(found) < len(passages):
        found += _vectors(encoder, passages[len(found) : len(found) + _AT_ONCE])
    middle, rest = len(found) // 2, len(found) * 5 // 8
    later = found[rest:]
    segments = [np.concatenate(later[at::SEGMENTS]) for at in range(SEGMENTS)]
    return Kind(np.concatenate(found[:middle]), np.concatenate(found[middle:rest]), segments)


def _vectors(encoder: Encoder, passages: list[str]) -> list[Vectors]:
    found = {at: vectors for batch in encoder.encode(passages) for at, vectors in batch}
    return [found[at] for at in range(len(passages))]


def measure_drift(data: Path, tokens: int, command: str) -> Drift:
    """Every kind's codebooks against every kind's segments."""
    started = environment(command)
    kinds = {name: encoded(texts, tokens) for name, texts in texts_of(data)}
    pairs = []
    for trained, own in kinds.items():
        for per_centroid in TOKENS_PER_CENTROID:
            book = kmeans(own.trained, len(own.trained) // per_centroid)
            base, seen = distance(own.held_out, book), distance(own.trained, book)
            for later, other in kinds.items():
                distances = [distance(one, book) for one in other.segments]
                least, most = min(distances), max(distances)
                pairs.append(Pair(trained, later, per_centroid, least / base, most / base, least / seen, most / seen))
    return Drift({name: len(kind.trained) for name, kind in kinds.items()}, pairs, started)


def distance(vectors: Vectors, book: Vectors) -> float:
    """The mean squared distance of vectors to their centroids."""
    nearest = nearest_of(Codebook.of(book)).find(vectors)
    return float(np.square(vectors - book[nearest]).sum(axis=1).mean())


def table(drift: Drift) -> Figures:
    """A row for each codebook: the ratios of segments by their kind."""
    kinds = list(drift.tokens)
    cells = {(one.trained, one.tokens_per_centroid, one.later): one for one in drift.pairs}
    rows = []
    for trained in kinds:
        for per_centroid in TOKENS_PER_CENTROID:
            row = [cells[trained, per_centroid, later] for later in kinds]
            told = [f"{one.least:.2f}-{one.most:.2f} ({one.most_by_trained:.2f})" for one in row]
            rows.append([trained, str(per_centroid), *told])
    return Figures("Distance of later segments to a codebook", ["trained on", "tokens a centroid", *kinds], rows)


def main() -> None:
    """Measure, print and keep the result."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.drift", description=__doc__)
    parser.add_argument("data", type=Path, help="folder of collections")
    parser.add_argument("--tokens", type=int, default=40_000, help="of each kind: %(default)s")
    parser.add_argument("--output", type=Path, default=default_output("drift"), help="JSON file of the result")
    arguments = parser.parse_args()
    command = " ".join(["python -m benchmarks.drift", *sys.argv[1:]])
    measured = measure_drift(arguments.data, arguments.tokens, command)
    save(arguments.output, "drift", measured)
    print_table(Console(width=140), table(measured))


if __name__ == "__main__":
    main()

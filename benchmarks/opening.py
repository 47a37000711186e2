"""What it costs to open an index, and to add to it: requests, memory and bytes, on synthetic codes.

    python -m benchmarks.opening

Opening lists one prefix and reads one manifest however many segments there are, and maps arrays without reading
them. Adding writes what is added. Codes are random, as none of the three figures depends on them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from benchmarks.environment import Environment, environment
from benchmarks.report import OPENING, opening_table, print_table
from benchmarks.results import default_output, save
from index_format import change, keys, schema
from index_format.change import Addition, Origin
from index_format.codebook import Codebook, exclusive_sum
from index_format.codec import Codec
from index_format.commit import commit
from index_format.files import FileCache
from index_format.index import Index
from index_format.manifest import ChunkingRecord, CodebookRecord, EncoderRecord, SegmentRecord
from index_format.segment import (
    PassageCentroids,
    SegmentContent,
    write_codebook,
    write_codec,
    write_passage_centroids,
    write_segment,
)
from index_format.store import LocalStore
from serving.snapshot import open_snapshot
from tasks.train_codebook import OUTLIER_SHARE

DIM, BITS, CENTROIDS = 384, 4, 4096
ENCODER = EncoderRecord(name="synthetic", fingerprint="0" * 64, dim=DIM)
_OPEN = "open"
_SPREAD = 0.7


@dataclass(frozen=True, slots=True)
class Shape:
    """How large a synthetic index is."""

    segments: int
    passages: int  # of a segment
    tokens: int  # of a passage


SHAPES = {
    "many segments": Shape(segments=1_000, passages=8, tokens=4),
    "two gigabytes": Shape(segments=10, passages=8_000, tokens=128),
    "a million passages": Shape(segments=20, passages=50_000, tokens=2),
}


@dataclass(frozen=True, slots=True)
class Opened:
    """One index, opened in a fresh process. Memory is what the process holds after, less what it held before."""

    shape: str
    segments: int
    passages: int
    bytes: int
    seconds: float
    lists: int
    manifests_read: int
    rss_mib: float
    rss_anonymous_mib: float


@dataclass(frozen=True, slots=True)
class Appended:
    """What adding to an index wrote, all files and the manifest."""

    index_passages: int
    index_bytes: int
    added_passages: int
    written_bytes: int
    manifest_bytes: int


@dataclass(frozen=True, slots=True)
class Opening:
    """All that this module measures."""

    opened: list[Opened]
    appended: list[Appended]
    environment: Environment


class CountingStore(LocalStore):
    """A directory that counts what is asked of it."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.lists = self.gets = self.written = 0

    def list(self, prefix: str) -> list[str]:
        self.lists += 1
        return super().list(prefix)

    def get(self, key: str) -> bytes:
        self.gets += 1
        return super().get(key)

    def create(self, key: str, data: bytes) -> None:
        self.written += len(data)
        super().create(key, data)


@dataclass(frozen=True, slots=True)
class Tokens:
    """Token vectors around each centroid, compressed. codes: uint8 [C, N, B], scales: float16 [C, N]."""

    codes: NDArray[np.uint8]
    scales: NDArray[np.float16]

    @staticmethod
    def around(centroids: NDArray[np.float32], codec: Codec) -> Tokens:
        """Eight around each of the centroids, float32 [C, D]."""
        near = np.repeat(centroids, 8, axis=0)
        codes, scales = codec.compress(near_to(near, np.random.default_rng(1)))
        return Tokens(codes.reshape(len(centroids), 8, -1), scales.reshape(len(centroids), 8))


def near_to(vectors: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Others around vectors float32 [n, D], each of length 1, as far away as a text's are from their centroids."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    others = unit + rng.normal(size=unit.shape) * (_SPREAD / DIM**0.5)
    return np.asarray(others / np.linalg.norm(others, axis=1, keepdims=True), np.float32)


def random_centroids() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The mean of every index here, float32 [D], and its centroids, float32 [C, D]."""
    rng = np.random.default_rng(0)
    return rng.normal(size=DIM).astype(np.float32), rng.normal(size=(CENTROIDS, DIM)).astype(np.float32)


def write_index(root: Path, shape: Shape, *, like_texts: bool = False) -> Index:
    """Publish an index of the given shape as one version.

    like_texts: whether tokens lie around the centroids that their passage touches; random codes lie anywhere.
    """
    index, (mean, book) = Index(LocalStore(root)), random_centroids()
    codec = Codec.of(mean[None], BITS)
    book_id = keys.new_id()
    settings = Addition(
        encoder=ENCODER,
        codec=write_codec(index.store, codec),
        chunking=ChunkingRecord(passage_tokens=shape.tokens, overlap_tokens=0),
        codebook=CodebookRecord(
            id=book_id,
            encoder=ENCODER.fingerprint,
            centroids=CENTROIDS,
            trained_on_tokens=CENTROIDS,
            trained_on_segments=[],
            held_out_distance=None,
            outlier_distance=1.0,
            file=write_codebook(index.store, book_id, Codebook.of(codec.rotated(book))),
        ),
        segments=[],
    )
    around = Tokens.around(book, codec) if like_texts else None
    segments = [
        write_random_segment(index, codec, shape, number, around)
        for number in track(range(shape.segments), "Writing", console=Console(stderr=True))
    ]
    _publish(index, settings, segments)
    return index


def write_random_segment(
    index: Index, codec: Codec, shape: Shape, number: int, around: Tokens | None = None
) -> SegmentRecord:
    """One segment of random codes, or of tokens around centroids; every passage is a document of its own."""
    rng = np.random.default_rng(number)
    tokens = shape.passages * shape.tokens
    rows = np.arange(shape.passages, dtype=np.uint32)
    texts = [f"passage {row} of segment {number}, with a few words of text" for row in rows]
    columns = {
        "id": [f"{number}/{row}" for row in rows],
        "content_hash": [rng.bytes(32) for _ in rows],
        "title": [None] * len(rows),
        "text": texts,
    }
    # As many distinct centroids as an encoder's text has, about two thirds of its tokens, drawn not computed.
    touched = max(1, shape.tokens * 2 // 3)
    steps = rng.integers(1, CENTROIDS // touched, (shape.passages, touched))
    ids = np.cumsum(steps, axis=1) - 1
    if around is None:
        codes, scales = rng.integers(0, 256, (tokens, codec.row_bytes), np.uint8), np.full(tokens, 0.01, np.float16)
    else:
        chosen = ids[:, np.arange(shape.tokens) % touched].ravel(), rng.integers(0, around.scales.shape[1], tokens)
        codes, scales = around.codes[chosen], around.scales[chosen]
    spans = {"start": np.zeros_like(rows), "end": np.array([len(text) for text in texts], np.uint32)}
    content = SegmentContent(
        encoder=ENCODER.fingerprint,
        documents=pa.table(columns, schema=schema.documents_schema(None)),
        passages=pa.table({"document": rows, "number": np.zeros_like(rows), **spans}, schema=schema.PASSAGES),
        offsets=exclusive_sum(np.full(shape.passages, shape.tokens)),
        codes=codes,
        scales=scales,
    )
    segment = write_segment(index.store, content)
    outliers = np.arange(0, tokens, round(1 / OUTLIER_SHARE))
    centroids = PassageCentroids(
        offsets=exclusive_sum(np.full(shape.passages, touched)),
        ids=ids.astype(schema.centroid_id_dtype(CENTROIDS)).ravel(),
        outlier_offsets=np.searchsorted(outliers, content.offsets).astype(np.uint32),
        outlier_codes=content.codes[outliers],
        outlier_scales=content.scales[outliers],
    )
    return segment.with_centroids(write_passage_centroids(index.store, segment, centroids))


def _publish(index: Index, settings: Addition, segments: Iterable[SegmentRecord]) -> None:
    addition = Addition(settings.encoder, settings.codec, settings.chunking, settings.codebook, list(segments))
    commit(index.store, lambda base: change.add_segments(index, base, addition, Origin("add")))


def measure_append(index: Index, shape: Shape, passages: int) -> Appended:
    """Add a segment of so many passages and count every byte that is written."""
    base = index.current()
    store = CountingStore(Path(index.address))
    own = Index(store)
    settings = Addition(base.encoder, base.codec, base.chunking, base.codebook, [])
    small = Shape(segments=1, passages=passages, tokens=shape.tokens)
    _publish(own, settings, [write_random_segment(own, own.codec(base), small, base.version * 1_000_000)])
    return Appended(
        index_passages=base.passages,
        index_bytes=sum(file.size for file in base.files()),
        added_passages=passages,
        written_bytes=store.written,
        manifest_bytes=store.size(keys.manifest(base.version + 1)),
    )


def measure_opening(name: str, root: Path) -> Opened:
    """Open an index in a process of its own."""
    arguments = [sys.executable, "-m", "benchmarks.opening", _OPEN, name, str(root)]
    done = subprocess.run(arguments, stdout=subprocess.PIPE, text=True, check=True)
    return Opened(**json.loads(done.stdout.splitlines()[-1]))


def _open(name: str, root: Path) -> None:
    """Open, and print what it took. This is all that the measured process does."""
    store = CountingStore(root)
    index = Index(store)
    index.files = FileCache(store)
    before, start = _resident_mib(), time.perf_counter()
    snapshot = open_snapshot(index)
    seconds, after = time.perf_counter() - start, _resident_mib()
    records = snapshot.manifest.segments
    figures = {
        "shape": name,
        "segments": len(records),
        "passages": snapshot.manifest.passages,
        "bytes": sum(file.size for file in snapshot.manifest.files()),
        "seconds": seconds,
        "lists": store.lists,
        "manifests_read": store.gets,
        "rss_mib": after["VmRSS"] - before["VmRSS"],
        "rss_anonymous_mib": after["RssAnon"] - before["RssAnon"],
    }
    print(json.dumps(figures))


def _resident_mib() -> dict[str, float]:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    values = dict(line.split(":", 1) for line in lines)
    return {name: int(values[name].split()[0]) / 1024 for name in ("VmRSS", "RssAnon")}


def measure(folder: Path, command: str) -> Opening:
    """Write each index, open it, add to the last, and remove it."""
    started, opened, appended = environment(command), [], []
    for name, shape in SHAPES.items():
        with tempfile.TemporaryDirectory(dir=folder) as place:
            index = write_index(Path(place, "index"), shape)
            opened.append(measure_opening(name, Path(index.address)))
            if name == "a million passages":
                appended = [measure_append(index, shape, passages) for passages in (1_000, 10_000)]
    return Opening(opened, appended, started)


def main() -> None:
    """Measure, print and keep the result; or be the process that is measured."""
    if sys.argv[1:2] == [_OPEN]:
        _open(sys.argv[2], Path(sys.argv[3]))
        return
    parser = argparse.ArgumentParser(prog="python -m benchmarks.opening", description=__doc__)
    parser.add_argument("--folder", type=Path, help="where 2.5 GB fit for a while  [default: the temporary one]")
    parser.add_argument("--output", type=Path, default=default_output("opening"), help="JSON file to add the result to")
    arguments = parser.parse_args()
    command = " ".join(["python -m benchmarks.opening", *sys.argv[1:]])
    results = save(arguments.output, OPENING, measure(arguments.folder, command))
    for table in opening_table(results[OPENING]):
        print_table(Console(width=140), table)


if __name__ == "__main__":
    main()

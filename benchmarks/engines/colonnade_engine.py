"""Colonnade itself: ready vectors become segments by the product's own functions, and `rank` answers."""

import hashlib
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.engines.protocol import Vectors, serve
from index_format import schema
from index_format.change import Addition, Origin, add_segments, delete_documents
from index_format.codebook import exclusive_sum
from index_format.codec import Codec
from index_format.commit import commit
from index_format.index import Index
from index_format.manifest import ChunkingRecord, CodebookRecord, CodecRecord, EncoderRecord
from index_format.segment import EncodedSegment, SegmentContent, write_codec, write_segment
from serving.compress import compress
from serving.search import rank
from serving.snapshot import open_snapshot
from tasks.assign_centroids import assign_centroids
from tasks.train_codebook import train_codebook

PASSAGES_A_SEGMENT = 4096
CHUNKING = ChunkingRecord(passage_tokens=256, overlap_tokens=0)
MEAN_SAMPLE = 100_000


class Colonnade:
    """One document for each passage, its text stored too."""

    def __init__(self, vectors: Vectors, threads: int, encoder: EncoderRecord | None = None) -> None:
        """encoder: what the index says that its vectors are of."""
        self._vectors, self._threads = vectors, threads
        dim = int(vectors.tokens.shape[1])
        self._encoder = encoder or EncoderRecord(name="benchmark", fingerprint="0" * 64, dim=dim)
        self._index: Any = None
        self._snapshot: Any = None

    def build(self, folder: Path, bits: int) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        index = Index.at(folder)
        tokens = self._vectors.tokens
        sample = np.random.default_rng(1).choice(len(tokens), min(len(tokens), MEAN_SAMPLE), replace=False)
        codec = Codec.of(np.asarray(tokens[np.sort(sample)], np.float32), bits)
        record = write_codec(index.store, codec)
        starts = range(0, self._vectors.passages, PASSAGES_A_SEGMENT)
        passages = [range(one, min(one + PASSAGES_A_SEGMENT, self._vectors.passages)) for one in starts]
        segments = [self._segment(index, codec, own, "") for own in passages]
        book = train_codebook(index.address, segments, record, codec.dim)
        self._publish(index, record, book, segments)

    def open(self, folder: Path) -> None:
        self._index = Index.at(folder)
        self._snapshot = open_snapshot(self._index)

    def search(self, query: Any, k: int, **point: Any) -> list[int]:
        return rank(self._snapshot, np.asarray(query, np.float32), k, threads=self._threads, **point).passages

    def change(self) -> dict[str, float]:
        """Seconds until an addition of 1 %, and then a deletion of 1 %, can be searched by who has the index open.

        The writer opens it for itself, as one elsewhere would.
        """
        index, manifest = Index.at(self._index.address), self._snapshot.manifest
        share = range(self._vectors.passages // 100)
        started = time.perf_counter()
        fresh = self._segment(index, self._snapshot.codec, share, "new-")
        self._publish(index, manifest.codec, manifest.codebook, [fresh])
        self._snapshot = open_snapshot(self._index, previous=self._snapshot)
        self._snapshot.table  # noqa: B018  # what a first search would wait for
        added = time.perf_counter()
        commit(index.store, lambda base: delete_documents(index, base, [f"new-{n}" for n in share], Origin("delete")))
        self._snapshot = open_snapshot(self._index, previous=self._snapshot)
        self._snapshot.table  # noqa: B018
        return {"add_1_percent": added - started, "delete_1_percent": time.perf_counter() - added}

    def _segment(self, index: Index, codec: Codec, numbers: range, prefix: str) -> EncodedSegment:
        first, last = self._vectors.offsets[numbers.start], self._vectors.offsets[numbers.stop]
        parts = [self._vectors.tokens[at : min(at + 16384, last)] for at in range(first, last, 16384)]
        blocks = [compress(codec, np.asarray(part, np.float32), threads=self._threads) for part in parts]
        texts = [self._vectors.texts[number] for number in numbers]
        hashes = [hashlib.sha256(text.encode()).digest() for text in texts]
        names = [f"{prefix}{number}" for number in numbers]
        count = len(texts)
        documents = pa.table(
            {"id": names, "content_hash": hashes, "title": [None] * count, "text": texts},
            schema=schema.documents_schema(None),
        )
        columns = {"document": range(count), "number": [0] * count, "start": [0] * count, "end": list(map(len, texts))}
        content = SegmentContent(
            encoder=self._encoder.fingerprint,
            documents=documents,
            passages=pa.table({name: list(values) for name, values in columns.items()}, schema=schema.PASSAGES),
            offsets=exclusive_sum(np.diff(self._vectors.offsets[numbers.start : numbers.stop + 1])),
            codes=np.concatenate([codes for codes, _ in blocks]),
            scales=np.concatenate([scales for _, scales in blocks]),
        )
        return write_segment(index.store, content)

    def _publish(self, index: Index, codec: CodecRecord, book: CodebookRecord, encoded: list[EncodedSegment]) -> None:
        records = [assign_centroids(one, index.address, book, codec, self._encoder.dim) for one in encoded]
        addition = Addition(self._encoder, codec, CHUNKING, book, records)
        commit(index.store, lambda base: add_segments(index, base, addition, Origin("build")))


if __name__ == "__main__":
    serve(Colonnade)

"""Tiny indexes for tests, and Hypothesis strategies for what goes into them.

Segments are made by the product itself on small vectors: no model, and every word has a vector of its own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st
from numpy.typing import NDArray

from index_format import change, keys, schema
from index_format.change import Addition, Origin
from index_format.codebook import Codebook, exclusive_sum
from index_format.codec import Codec
from index_format.commit import commit
from index_format.errors import IndexNotFound
from index_format.index import Index
from index_format.manifest import (
    ChunkingRecord,
    CodebookRecord,
    CodecRecord,
    EncoderRecord,
    Manifest,
    SegmentRecord,
)
from index_format.segment import SegmentContent, write_centroids, write_codebook, write_codec, write_segment
from index_format.store import Store

DIM = 8
CENTROIDS = 5
OUTLIER_DISTANCE = 1.0  # some words without a centroid of their own are farther than that, others are not
WORDS = ["harbour", "lantern", "copper", "meadow", "violin", "ember", "glacier", "saffron"]

document_ids = st.sampled_from(["a", "b", "c", "d", "é/1", "with space"])
texts = st.lists(st.sampled_from(WORDS), min_size=1, max_size=12).map(" ".join)
batches = st.dictionaries(document_ids, texts, min_size=1, max_size=4)


@dataclass(frozen=True, slots=True)
class Recipe:
    """What all segments of one test index are made with."""

    encoder: EncoderRecord
    codec_record: CodecRecord
    chunking: ChunkingRecord
    codebook_record: CodebookRecord
    codec: Codec
    codebook: Codebook


@lru_cache
def word_vector(word: str) -> NDArray[np.float32]:
    """The token vector of a word: float32 [DIM] of length 1, the same in every run."""
    seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "little")
    vector = np.random.default_rng(seed).normal(size=DIM)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def token_vectors(text: str) -> NDArray[np.float32]:
    """One token vector for each word: float32 [T, DIM]."""
    return np.stack([word_vector(word) for word in text.split()])


def make_recipe(index: Index, *, bits: int = 4, encoder: str = "words") -> Recipe:
    """Write a codec and a codebook into an index that has none yet."""
    sample = np.stack([word_vector(word) for word in WORDS])
    codec = Codec.of(sample, bits)
    book = Codebook.of(codec.rotated(sample[:CENTROIDS]), OUTLIER_DISTANCE)
    book_id = keys.new_id()
    record = EncoderRecord(name=encoder, fingerprint=hashlib.sha256(encoder.encode()).hexdigest(), dim=DIM)
    book_file = write_codebook(index.store, book_id, book)
    return Recipe(
        encoder=record,
        codec_record=write_codec(index.store, codec),
        chunking=ChunkingRecord(passage_tokens=4, overlap_tokens=0),
        codebook_record=CodebookRecord(
            id=book_id,
            encoder=record.fingerprint,
            centroids=CENTROIDS,
            trained_on_tokens=len(sample),
            trained_on_segments=[],
            held_out_distance=None,
            outlier_distance=OUTLIER_DISTANCE,
            file=book_file,
        ),
        codec=codec,
        codebook=book,
    )


def recipe_of(index: Index) -> Recipe:
    """The recipe that an index was made with."""
    manifest = index.current()
    return Recipe(
        encoder=manifest.encoder,
        codec_record=manifest.codec,
        chunking=manifest.chunking,
        codebook_record=manifest.codebook,
        codec=index.codec(manifest),
        codebook=index.codebook(manifest),
    )


def content_hash(text: str) -> bytes:
    """The content hash of a document without title or metadata (SPEC §4.2)."""
    return hashlib.sha256(json.dumps([None, text, {}]).encode()).digest()


def write_documents(index: Index, recipe: Recipe, documents: Mapping[str, str]) -> SegmentRecord:
    """One segment of the given documents, in passages of at most four words."""
    rows: list[dict[str, int]] = []
    lengths: list[int] = []
    vectors: list[NDArray[np.float32]] = []
    for row, text in enumerate(documents.values()):
        words, at = text.split(), 0
        for number, first in enumerate(range(0, len(words), recipe.chunking.passage_tokens)):
            own = words[first : first + recipe.chunking.passage_tokens]
            end = at + len(" ".join(own))
            rows.append({"document": row, "number": number, "start": at, "end": end})
            lengths.append(len(own))
            vectors.append(token_vectors(" ".join(own)))
            at = end + 1
    codes, scales = recipe.codec.compress(np.concatenate(vectors))
    columns = {
        "id": list(documents),
        "content_hash": [content_hash(text) for text in documents.values()],
        "title": [None] * len(documents),
        "text": list(documents.values()),
    }
    content = SegmentContent(
        encoder=recipe.encoder.fingerprint,
        documents=pa.table(columns, schema=schema.documents_schema(None)),
        passages=pa.Table.from_pylist(rows, schema=schema.PASSAGES),
        offsets=exclusive_sum(np.array(lengths)),
        codes=codes,
        scales=scales,
    )
    segment = write_segment(index.store, content)
    return segment.with_centroids(write_centroids(index.store, segment, index.files, recipe.codec, recipe.codebook))


def addition(recipe: Recipe, *segments: SegmentRecord) -> Addition:
    """Segments ready to be published."""
    return Addition(recipe.encoder, recipe.codec_record, recipe.chunking, recipe.codebook_record, segments)


def publish(index: Index, recipe: Recipe, *segments: SegmentRecord) -> Manifest | None:
    """Commit segments that are written."""
    made = addition(recipe, *segments)
    return commit(index.store, lambda base: change.add_segments(index, base, made, Origin("add")))


def add(index: Index, recipe: Recipe, documents: Mapping[str, str]) -> Manifest | None:
    """Write documents as one segment and commit it."""
    return publish(index, recipe, write_documents(index, recipe, documents))


def delete(index: Index, *ids: str) -> Manifest | None:
    """Delete documents from an index that exists."""

    def without_them(base: Manifest | None) -> Manifest | None:
        if base is None:
            raise IndexNotFound(index.address)
        return change.delete_documents(index, base, ids, Origin("delete"))

    return commit(index.store, without_them)


def live_texts(index: Index, version: int | None = None) -> dict[str, str]:
    """Every live document's text by id, of one version or the current one."""
    manifest = index.head() if version is None else index.version(version)
    if manifest is None:
        return {}
    segments = {segment.record.id: segment for segment in index.segments(manifest)}
    places = change.live_documents(segments.values())
    assert len(places) == manifest.documents, "a document is live twice, or the manifest counts wrong"
    texts = {}
    for document_id, place in places.items():
        document = segments[place.segment_id].read_documents([place.row])[0]
        assert document["id"] == document_id
        texts[document_id] = str(document["text"])
    return texts


def all_objects(store: Store) -> dict[str, bytes]:
    """Every object of a store."""
    return {key: store.get(key) for key in store.list("")}

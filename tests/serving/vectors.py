"""Indexes of token vectors that a test chose, written by the product itself, in as many segments as wanted."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from encoding.encoder import Encoder
from index_format import keys, schema
from index_format.change import Origin
from index_format.codebook import Codebook, exclusive_sum
from index_format.codec import Codec
from index_format.commit import commit
from index_format.index import Index
from index_format.manifest import ChunkingRecord, CodebookRecord, EncoderRecord, Manifest, SegmentRecord
from index_format.reindex import replace_vectors
from index_format.segment import SegmentContent, write_centroids, write_codebook, write_codec, write_segment
from index_format.store import MemoryStore
from serving.oracle import coded_maxsim
from serving.snapshot import Snapshot, open_snapshot
from tasks.train_codebook import outlier_distance
from tests.strategies import Recipe, addition, publish, recipe_of

OUTLIER_SHARE = 0.2  # enough that most passages have some and some have none
Vectors = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Document:
    """A document whose passages have the given token vectors; passage n reads `ID passage n. `."""

    id: str
    passages: list[Vectors]
    title: str | None = None
    metadata: dict[str, object] = field(default_factory=dict)
    text: str | None = None

    @property
    def pieces(self) -> list[str]:
        """The text of each passage."""
        return [self.text] if self.text else [f"{self.id} passage {number}. " for number in range(len(self.passages))]


def random_vectors(rng: np.random.Generator, count: int, dim: int) -> Vectors:
    """Unit vectors float32 [count, dim]."""
    vectors = rng.normal(size=(count, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def random_documents(seed: int, lengths: Sequence[Sequence[int]], dim: int) -> list[Document]:
    """Documents with ids doc-000, doc-001, …; `lengths` has the tokens of each passage of each."""
    rng = np.random.default_rng(seed)
    return [
        Document(
            id=f"doc-{number:03d}",
            passages=[random_vectors(rng, length, dim) for length in own],
            title=f"Title {number}" if number % 2 else None,
            metadata={"number": number},
        )
        for number, own in enumerate(lengths)
    ]


def random_query(dim: int, count: int = 5) -> Vectors:
    """Random query vectors float32 [count, dim], one of them of zeros."""
    query = random_vectors(np.random.default_rng(dim), count, dim)
    query[1:2] = 0
    return query


def by_definition(query: Vectors, snapshot: Snapshot) -> Vectors:
    """The oracle's score of every passage of a snapshot."""
    scores = []
    for segment in snapshot.segments:
        starts, codes, scales = segment.codes.offsets, segment.codes.codes, segment.codes.scales
        spans = [slice(int(start), int(end)) for start, end in itertools.pairwise(starts)]
        scores += [coded_maxsim(query, snapshot.codec, codes[span], scales[span]) for span in spans]
    return np.array(scores)


def make_recipe(
    index: Index,
    sample: Vectors,
    *,
    bits: int,
    centroids: int,
    encoder: EncoderRecord,
    outlier_share: float | None = OUTLIER_SHARE,
) -> Recipe:
    """Write a codec centred on `sample` and a codebook of its first vectors; a share of all are outliers, or none."""
    codec = Codec.of(sample, bits)
    book = Codebook.of(codec.rotated(sample[:centroids]))
    if outlier_share is not None:
        decoded = codec.decompress_rotated(*codec.compress(sample))
        distances = book.squared_distances(decoded, book.nearest(decoded))
        book = replace(book, outlier_distance=outlier_distance(distances, outlier_share))
    book_id = keys.new_id()
    book_file = write_codebook(index.store, book_id, book)
    return Recipe(
        encoder=encoder,
        codec_record=write_codec(index.store, codec),
        chunking=ChunkingRecord(passage_tokens=256, overlap_tokens=0),
        codebook_record=CodebookRecord(
            id=book_id,
            encoder=encoder.fingerprint,
            centroids=len(book.centroids),
            trained_on_tokens=len(sample),
            trained_on_segments=[],
            held_out_distance=None,
            outlier_distance=book.outlier_distance,
            file=book_file,
        ),
        codec=codec,
        codebook=book,
    )


def write_documents(index: Index, recipe: Recipe, documents: Sequence[Document]) -> SegmentRecord:
    """One segment of the given documents. Each passage is compressed alone, so segments do not change its codes."""
    rows = []
    for row, document in enumerate(documents):
        ends = np.cumsum([len(piece) for piece in document.pieces]).tolist()
        spans = zip([0, *ends], ends, strict=False)
        rows += [{"document": row, "number": n, "start": start, "end": end} for n, (start, end) in enumerate(spans)]
    coded = [recipe.codec.compress(passage) for document in documents for passage in document.passages]
    texts = ["".join(document.pieces) for document in documents]
    said = [[one.title, text, one.metadata] for one, text in zip(documents, texts, strict=True)]
    columns: dict[str, object] = {
        "id": [document.id for document in documents],
        "content_hash": [hashlib.sha256(json.dumps(one, default=str).encode()).digest() for one in said],
        "title": [document.title for document in documents],
        "text": texts,
    }
    metadata = pa.array([document.metadata for document in documents])
    if metadata.type.num_fields:
        columns["metadata"] = metadata
    content = SegmentContent(
        encoder=recipe.encoder.fingerprint,
        documents=pa.table(columns, schema=schema.documents_schema(metadata.type)),
        passages=pa.Table.from_pylist(rows, schema=schema.PASSAGES),
        offsets=exclusive_sum(np.array([len(scales) for _, scales in coded])),
        codes=np.concatenate([codes for codes, _ in coded]),
        scales=np.concatenate([scales for _, scales in coded]),
    )
    segment = write_segment(index.store, content)
    return segment.with_centroids(write_centroids(index.store, segment, index.files, recipe.codec, recipe.codebook))


def random_index(
    cache: Path,
    *segments: Sequence[Document],
    bits: int = 4,
    centroids: int = 16,
    sample: Vectors | None = None,
    outlier_share: float | None = OUTLIER_SHARE,
) -> tuple[Index, Recipe]:
    """An index in memory whose version 1 has the given segments; `sample` fixes its codec and codebook."""
    index = Index(MemoryStore(), cache)
    if sample is None:
        sample = all_vectors([document for one in segments for document in one])
    encoder = EncoderRecord(name="random", fingerprint="0" * 64, dim=sample.shape[1])
    recipe = make_recipe(index, sample, bits=bits, centroids=centroids, encoder=encoder, outlier_share=outlier_share)
    publish(index, recipe, *(write_documents(index, recipe, one) for one in segments))
    return index, recipe


def random_snapshot(
    cache: Path,
    *segments: Sequence[Document],
    bits: int = 4,
    centroids: int = 16,
    sample: Vectors | None = None,
    outlier_share: float | None = OUTLIER_SHARE,
) -> Snapshot:
    """The same, opened."""
    index, _ = random_index(
        cache, *segments, bits=bits, centroids=centroids, sample=sample, outlier_share=outlier_share
    )
    return open_snapshot(index)


def all_vectors(documents: Sequence[Document]) -> Vectors:
    """The token vectors of all passages, one below the other."""
    return np.concatenate([passage for document in documents for passage in document.passages])


@lru_cache(maxsize=256)
def _encoded_once(encoder: Encoder, text: str) -> Vectors:
    """Many tests begin with the same few texts."""
    (((_, vectors),),) = encoder.encode([text])
    return vectors


def add_texts(index: Index, encoder: Encoder, texts: dict[str, str], **metadata: object) -> Manifest | None:
    """Commit documents of one passage each, with the vectors of a real encoder."""
    documents = [
        Document(id=name, passages=[_encoded_once(encoder, text)], text=text, metadata=metadata)
        for name, text in texts.items()
    ]
    if index.head():
        recipe = recipe_of(index)
    else:
        sample = np.concatenate([document.passages[0] for document in documents])
        recipe = make_recipe(index, sample, bits=8, centroids=8, encoder=encoder.record)
    return publish(index, recipe, write_documents(index, recipe, documents))


def reindexed(place: Path, encoder: Encoder) -> Index:
    """An index of one document whose version 1 is of an encoder "theirs", and version 2 of this one."""
    index, rng = Index.at(place), np.random.default_rng(1)
    ours, theirs = encoder.record, msgspec.structs.replace(encoder.record, name="theirs", fingerprint="e" * 64)
    documents = [Document("bees", [random_vectors(rng, 4, ours.dim)], text="Bees make honey.")]
    recipes = [make_recipe(index, documents[0].passages[0], bits=8, centroids=2, encoder=one) for one in (theirs, ours)]
    publish(index, recipes[0], write_documents(index, recipes[0], documents))
    made = addition(recipes[1], write_documents(index, recipes[1], documents))

    def taken_over(base: Manifest | None) -> Manifest:
        assert base is not None
        return replace_vectors(index, base, base, made, Origin("reindex"))

    commit(index.store, taken_over)
    return index

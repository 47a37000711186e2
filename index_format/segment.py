"""A segment: some documents, their passages and their codes, written once (SPEC §4.2)."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from index_format import keys, schema
from index_format.codebook import Codebook, distinct_per_passage
from index_format.codec import Codec
from index_format.errors import IndexCorrupt
from index_format.files import FileCache, write_object
from index_format.manifest import CodebookRecord, CodecRecord, FileRef, SegmentRecord
from index_format.npz import forget, map_npz, write_npz
from index_format.rotation import Rotation
from index_format.store import Store


@dataclass(frozen=True, slots=True)
class SegmentContent:
    """What a segment is made of.

    documents: id, content_hash, title, text, metadata. passages: document row, number, start, end.
    offsets: uint32 [P + 1] into the tokens. codes: uint8 [T, row_bytes]. scales: float16 [T].
    encoder: the fingerprint of what made the token vectors.
    """

    encoder: str
    documents: pa.Table
    passages: pa.Table
    offsets: NDArray[np.uint32]
    codes: NDArray[np.uint8]
    scales: NDArray[np.float16]


class EncodedSegment(msgspec.Struct, frozen=True, kw_only=True):
    """A segment whose files are written but which no manifest names yet."""

    id: str
    encoder: str
    documents: int
    passages: int
    tokens: int
    documents_file: FileRef
    passages_file: FileRef
    codes_file: FileRef

    def with_centroids(self, centroids_file: FileRef) -> SegmentRecord:
        """The record a manifest keeps, once the segment's centroid ids are written."""
        return SegmentRecord(centroids_file=centroids_file, **msgspec.structs.asdict(self))


def write_segment(store: Store, content: SegmentContent) -> EncodedSegment:
    """Write the files of a new segment. Nobody sees them before a commit names them."""
    segment_id = keys.new_id()
    codes: dict[str, NDArray[np.generic]] = {
        "offsets": content.offsets,
        "codes": content.codes,
        "scales": content.scales,
    }
    return EncodedSegment(
        id=segment_id,
        encoder=content.encoder,
        documents=content.documents.num_rows,
        passages=content.passages.num_rows,
        tokens=len(content.scales),
        documents_file=write_object(store, keys.documents(segment_id), schema.write_parquet(content.documents)),
        passages_file=write_object(store, keys.passages(segment_id), schema.write_parquet(content.passages)),
        codes_file=write_object(store, keys.codes(segment_id), write_npz(codes)),
    )


Nearest = Callable[[NDArray[np.float32]], NDArray[np.uint32]]
"""Token vectors float32 [T, D] to the id of each one's centroid: uint32 [T]."""


def write_centroids(
    store: Store,
    segment: EncodedSegment | SegmentRecord,
    files: FileCache,
    codec: Codec,
    book: Codebook,
    nearest: Nearest | None = None,
) -> FileRef:
    """Find the centroids that each passage of a segment touches, and its outliers, and write them beside it.

    nearest: what finds them; `book.nearest` by default.
    """
    arrays = map_codes(files, segment, codec)
    find = nearest or book.nearest
    ids = np.empty(segment.tokens, np.uint32)
    is_outlier = np.empty(segment.tokens, bool)
    for start in range(0, segment.tokens, _BLOCK):
        own = slice(start, start + _BLOCK)
        vectors = codec.decompress_rotated(arrays.codes[own], arrays.scales[own])
        ids[own] = find(vectors)
        is_outlier[own] = book.outliers(vectors, ids[own])
    offsets, distinct = distinct_per_passage(arrays.offsets, ids)
    outliers = np.flatnonzero(is_outlier)
    touched = PassageCentroids(
        offsets=offsets,
        ids=distinct.astype(schema.centroid_id_dtype(len(book.centroids))),
        outlier_offsets=np.searchsorted(outliers, arrays.offsets).astype(np.uint32),
        outlier_codes=arrays.codes[outliers],
        outlier_scales=arrays.scales[outliers],
    )
    return write_passage_centroids(store, segment, touched)


def write_passage_centroids(
    store: Store, segment: EncodedSegment | SegmentRecord, touched: PassageCentroids
) -> FileRef:
    """Write a centroids file of a segment under a new key."""
    names = [one.name for one in dataclasses.fields(touched)]
    data = write_npz(dict(zip(names, touched.arrays, strict=True)))
    return write_object(store, keys.centroids(segment.id, keys.new_id()), data)


_BLOCK = 16384  # tokens decompressed at once
_TEXTS = 64 * schema.ROW_GROUP  # documents whose texts are in memory at once


@dataclass(frozen=True, slots=True)
class Codes:
    """The mapped arrays of codes.npz, in their order there."""

    offsets: NDArray[np.uint32]
    codes: NDArray[np.uint8]
    scales: NDArray[np.float16]

    @property
    def arrays(self) -> tuple[NDArray[np.generic], ...]:
        return self.offsets, self.codes, self.scales


@dataclass(frozen=True, slots=True)
class PassageCentroids:
    """The arrays of centroids.npz, in their order there.

    ids: uint16 or uint32, ascending in each passage, whose places offsets uint32 [P + 1] tells. outlier_codes: uint8
    [E, row_bytes] and outlier_scales: float16 [E], copies of those of the passage's outliers, whose places
    outlier_offsets uint32 [P + 1] tells.
    """

    offsets: NDArray[np.uint32]
    ids: NDArray[np.uint16] | NDArray[np.uint32]
    outlier_offsets: NDArray[np.uint32]
    outlier_codes: NDArray[np.uint8]
    outlier_scales: NDArray[np.float16]

    @property
    def arrays(self) -> tuple[NDArray[np.generic], ...]:
        return self.offsets, self.ids, self.outlier_offsets, self.outlier_codes, self.outlier_scales


def map_codes(files: FileCache, segment: EncodedSegment | SegmentRecord, codec: Codec) -> Codes:
    """Map the codes of a segment, checked against the sizes that its record promises."""
    specs = schema.codes_arrays(segment.passages, segment.tokens, codec.row_bytes)
    path = files.path(segment.codes_file)
    arrays = map_npz(path, specs)
    offsets = arrays["offsets"]
    _check_offsets(offsets, segment.tokens, f"{path}: offsets")
    return Codes(offsets, arrays["codes"], arrays["scales"])  # type: ignore[arg-type]  # dtypes are in the specs


class SegmentReader:
    """One segment of one version. What it holds is fetched, checked and mapped when first asked for."""

    def __init__(self, files: FileCache, record: SegmentRecord, codec: Codec, centroids: int) -> None:
        """codec: the index's. centroids: how many the codebook of this version has."""
        self._files = files
        self._codec = codec
        self._centroids = centroids
        self._reading = threading.Lock()  # a ParquetFile is for one thread at a time
        self.record = record

    def load(self) -> None:
        """Fetch and check every file now, and map the arrays, so that no query waits for it or meets damage."""
        for file in self.record.files():
            self._files.path(file)
        _ = self.codes, self.centroids, self.deleted, self.document_rows, self.document_ids
        # The checks above touched some pages; the system may have mapped megabytes around each.
        forget(self.codes.offsets)
        forget(self.centroids.offsets)

    @cached_property
    def codes(self) -> Codes:
        """Offsets, packed codes and scales of all tokens."""
        return map_codes(self._files, self.record, self._codec)

    @cached_property
    def centroids(self) -> PassageCentroids:
        """The distinct centroid ids of each passage, and its outliers."""
        path = self._files.path(self.record.centroids_file)
        specs = schema.centroid_arrays(self.record.passages, self._centroids, self._codec.row_bytes)
        arrays = map_npz(path, specs)
        _check_offsets(arrays["offsets"], len(arrays["ids"]), f"{path}: offsets")
        outliers = len(arrays["outlier_scales"])
        if len(arrays["outlier_codes"]) != outliers:
            raise IndexCorrupt(f"{path}: {len(arrays['outlier_codes'])} outlier_codes, but {outliers} outlier_scales.")
        _check_offsets(arrays["outlier_offsets"], outliers, f"{path}: outlier_offsets", may_be_empty=True)
        highest = int(arrays["ids"].max())
        if highest >= self._centroids:
            raise IndexCorrupt(
                f"{self.record.centroids_file.key}: touches centroid {highest}, but the codebook has "
                f"{self._centroids}. Restore the file or rebuild."
            )
        return PassageCentroids(**arrays)  # type: ignore[arg-type]  # dtypes are in the specs

    @cached_property
    def deleted(self) -> NDArray[np.bool_]:
        """Which passages are deleted, by ordinal: bool [P]."""
        deleted = np.zeros(self.record.passages, bool)
        deleted[read_deletions(self._files, self.record)] = True
        return deleted

    @cached_property
    def passages(self) -> pa.Table:
        """document, number, start, end of each passage, by ordinal."""
        file = schema.open_parquet(self._files.path(self.record.passages_file), self.record.passages)
        table = file.read()
        if not table.schema.equals(schema.PASSAGES):
            raise IndexCorrupt(f"{self.record.passages_file.key}: unexpected columns {table.schema.names}.")
        return table

    @cached_property
    def document_rows(self) -> NDArray[np.uint32]:
        """The row in documents.parquet of each passage: uint32 [P]."""
        rows = self._numbers("document")
        steps = np.diff(rows.astype(np.int64))
        if rows[0] != 0 or rows[-1] != self.record.documents - 1 or not ((steps == 0) | (steps == 1)).all():
            raise IndexCorrupt(
                f"{self.record.passages_file.key}: passages do not follow {self.record.documents} documents in order. "
                "Restore the file or rebuild."
            )
        return rows

    @cached_property
    def document_ids(self) -> pa.Array:
        """The id of each document, by row."""
        return self._read_columns(["id"])["id"].combine_chunks()

    def document_id(self, ordinal: int) -> str:
        """The id of the document that a passage belongs to."""
        document_id: str = self.document_ids[int(self.document_rows[ordinal])].as_py()
        return document_id

    @cached_property
    def numbers(self) -> NDArray[np.uint32]:
        """The place of each passage in its document: uint32 [P]."""
        return self._numbers("number")

    def _numbers(self, name: str) -> NDArray[np.uint32]:
        # Not the column's to_numpy, which imports pandas: half a second and 40 MB.
        return np.asarray(np.from_dlpack(self.passages[name].combine_chunks()), np.uint32)

    def span(self, ordinal: int) -> tuple[int, int]:
        """The first character of a passage in its document's text, and one past its last."""
        start, end = (self.passages[name][ordinal].as_py() for name in ("start", "end"))
        return start, end

    @cached_property
    def content_hashes(self) -> pa.Array:
        """The content hash of each document, by row."""
        return self._read_columns(["content_hash"])["content_hash"].combine_chunks()

    @cached_property
    def deleted_rows(self) -> NDArray[np.bool_]:
        """Which documents are deleted, by row: bool [documents]."""
        deleted = np.zeros(self.record.documents, bool)
        if self.record.deletions is not None:  # or else no passage has to be read
            deleted[self.document_rows[self.deleted]] = True
        return deleted

    @property
    def documents_schema(self) -> pa.Schema:
        """The columns of documents.parquet; metadata differs from segment to segment."""
        with self._reading:
            return self._documents.schema_arrow

    @property
    def metadata_type(self) -> pa.StructType:
        """The metadata columns of this segment; none where there is no metadata."""
        return schema.metadata_type(self.documents_schema)

    def metadata_column(self, name: str) -> pa.Array:
        """A metadata column by row, the only one that is read; nulls where the segment has none of that name."""
        if self.metadata_type.get_field_index(name) < 0:
            return pa.nulls(self.record.documents)
        struct = self._read_columns([f"{schema.METADATA}.{name}"])[schema.METADATA].combine_chunks()
        # By place, as a name may look like a path; and not the struct's own field, which forgets where it is null.
        return pc.struct_field(struct, [struct.type.get_field_index(name)])

    def read_table(self) -> pa.Table:
        """The whole of documents.parquet, deleted documents too."""
        return self._read_columns(self.documents_schema.names)

    def passage_texts(self) -> Iterator[list[str]]:
        """Title and text of each passage, by ordinal, as its encoder was given them; some documents at a time."""
        document_rows = self.document_rows
        starts, ends = (self.passages[name].to_pylist() for name in ("start", "end"))
        for group in range(0, self.record.documents, _TEXTS):
            groups = range(
                group // schema.ROW_GROUP, -(-min(group + _TEXTS, self.record.documents) // schema.ROW_GROUP)
            )
            documents = self._read_columns(["title", "text"], list(groups))
            titles, texts = (documents[name].to_pylist() for name in ("title", "text"))
            first, last = np.searchsorted(document_rows, [group, group + _TEXTS]).tolist()
            yield [
                f"{titles[row - group] or ''} {texts[row - group][starts[ordinal] : ends[ordinal]]}"
                for ordinal, row in enumerate(document_rows[first:last].tolist(), start=first)
            ]

    def read_documents(self, rows: list[int]) -> list[dict[str, object]]:
        """Whole documents (id, title, text, metadata) in the order of `rows`; reads only their row groups.

        Metadata has no nulls: a field that is null says the same as one that is not there (SPEC §4.2).
        """
        groups = sorted({row // schema.ROW_GROUP for row in rows})
        names = [name for name in self.documents_schema.names if name != "content_hash"]
        table = self._read_columns(names, groups)
        starts = {group: at * schema.ROW_GROUP for at, group in enumerate(groups)}
        places = [starts[row // schema.ROW_GROUP] + row % schema.ROW_GROUP for row in rows]
        documents: list[dict[str, object]] = table.take(places).to_pylist()
        for document in documents:
            metadata = document.get(schema.METADATA)
            if isinstance(metadata, dict):
                document[schema.METADATA] = {name: value for name, value in metadata.items() if value is not None}
        return documents

    def _read_columns(self, names: list[str], groups: list[int] | None = None) -> pa.Table:
        with self._reading:
            file = self._documents
            return file.read(columns=names) if groups is None else file.read_row_groups(groups, columns=names)

    @cached_property
    def _documents(self) -> pq.ParquetFile:
        return schema.open_parquet(self._files.path(self.record.documents_file), self.record.documents)


def read_deletions(files: FileCache, record: SegmentRecord) -> NDArray[np.uint32]:
    """Ordinals of the deleted passages of a segment, ascending."""
    if record.deletions is None:
        return np.zeros(0, np.uint32)
    path = files.path(record.deletions.file)
    ordinals: NDArray[np.uint32] = map_npz(path, schema.deletion_arrays())["ordinals"]  # type: ignore[assignment]
    rising = (np.diff(ordinals.astype(np.int64)) > 0).all()
    if len(ordinals) != record.deletions.passages or not rising or (ordinals >= record.passages).any():
        raise IndexCorrupt(f"{path}: ordinals do not fit a segment of {record.passages} passages.")
    return ordinals


def read_codec(files: FileCache, record: CodecRecord, dim: int) -> Codec:
    path = files.path(record.file)
    arrays = map_npz(path, schema.codec_arrays(dim))
    mean, order, signs = arrays["mean"], arrays["order"], arrays["signs"]
    if not np.array_equal(np.sort(order), np.arange(dim)) or not (np.abs(signs) == 1).all():
        raise IndexCorrupt(f"{path}: order must have each dimension once, and each sign be 1 or -1. Restore the file.")
    return Codec(mean, record.bits, Rotation(order, signs))  # type: ignore[arg-type]


def write_codec(store: Store, codec: Codec) -> CodecRecord:
    """Write the codec of a new index. Raises ValueError for one that does not rotate: no index has it."""
    if codec.rotation is None:
        raise ValueError("a codec without a rotation is no index's")
    rotation = codec.rotation
    arrays: dict[str, NDArray[np.generic]] = {"mean": codec.mean, "order": rotation.order, "signs": rotation.signs}
    return CodecRecord(bits=codec.bits, file=write_object(store, keys.codec(keys.new_id()), write_npz(arrays)))


def read_codebook(files: FileCache, record: CodebookRecord, dim: int) -> Codebook:
    arrays = map_npz(files.path(record.file), schema.codebook_arrays(record.centroids, dim))
    return Codebook(arrays["codes"], arrays["scales"], record.outlier_distance)  # type: ignore[arg-type]


def write_codebook(store: Store, codebook_id: str, book: Codebook) -> FileRef:
    """Write a codebook under the key of its id. What it says of outliers stands in its record."""
    return write_object(store, keys.codebook(codebook_id), write_npz({"codes": book.codes, "scales": book.scales}))


def _check_offsets(offsets: NDArray[np.generic], total: int, where: str, *, may_be_empty: bool = False) -> None:
    """may_be_empty: whether a passage may have nothing."""
    values = offsets.astype(np.int64)
    if values[0] != 0 or values[-1] != total or (np.diff(values) < (0 if may_be_empty else 1)).any():
        order = "none below" if may_be_empty else "each above"
        raise IndexCorrupt(f"{where}: must rise from 0 to {total}, {order} the one before.")

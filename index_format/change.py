"""How an index changes: documents added, replaced and deleted, and a new codebook (SPEC §8).

Each is a function of the current manifest to the next one, for `commit`. `compaction.py` and `history.py` have more.

A change is computed from the manifest it is applied to, again after every lost race, and compares
document ids and content hashes. So the same batch twice, late or at the same time as another writer,
changes nothing the second time.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from index_format import keys
from index_format.commit import refuse_collectable
from index_format.errors import CodebookChanged, CommitConflict, EncoderMismatch
from index_format.files import write_object
from index_format.filters import Filter
from index_format.index import Index
from index_format.manifest import (
    FORMAT_VERSION,
    ChunkingRecord,
    CodebookRecord,
    CodecRecord,
    CommitRecord,
    DeletionRecord,
    EncoderRecord,
    FileRef,
    Manifest,
    SegmentRecord,
)
from index_format.npz import write_npz
from index_format.segment import SegmentReader, read_codebook, read_codec, write_centroids
from index_format.selection import filter_columns, matching_rows, refuse_misfit


@dataclass(frozen=True, slots=True)
class Place:
    """Where a live document is, and the hash of what it says."""

    segment_id: str
    row: int
    content_hash: bytes


@dataclass(frozen=True, slots=True)
class Addition:
    """Segments ready to be published, and what they were made with."""

    encoder: EncoderRecord
    codec: CodecRecord
    chunking: ChunkingRecord
    codebook: CodebookRecord
    segments: Sequence[SegmentRecord]


@dataclass(frozen=True, slots=True)
class Origin:
    """What is worth keeping of where a change came from."""

    operation: str
    rejected: int = 0
    rejected_file: FileRef | None = None
    source_fingerprint: str | None = None


def live_documents(segments: Iterable[SegmentReader], among: Collection[str] | None = None) -> dict[str, Place]:
    """The live documents by id: all, or those of them whose ids are `among` the given ones."""
    wanted = None if among is None else pa.array(list(among), pa.string())
    places: dict[str, Place] = {}
    for segment in segments:
        rows = np.arange(segment.record.documents)
        if wanted is not None:
            found = pc.indices_nonzero(pc.is_in(segment.document_ids, value_set=wanted))
            rows = np.asarray(np.from_dlpack(found), np.int64)
        rows = rows[~segment.deleted_rows[rows]]
        if len(rows):
            ids, hashes = (column.take(rows).to_pylist() for column in (segment.document_ids, segment.content_hashes))
            for row, document_id, content_hash in zip(rows.tolist(), ids, hashes, strict=True):
                places[document_id] = Place(segment.record.id, row, content_hash)
    return places


def add_segments(
    index: Index, base: Manifest | None, addition: Addition, origin: Origin, removed: Iterable[str] = ()
) -> Manifest | None:
    """The manifest without the ids in `removed` and after `addition`, or None when that changes nothing.

    A document that `base` holds with equal content is hidden in the new segment; with other content, in the old.
    Raises EncoderMismatch, CodebookChanged or CommitConflict when `base` was made otherwise.
    """
    if base is not None:
        refuse_mismatch(index, base, addition)
    old = base.segments if base else []
    known = {segment.id for segment in old}
    fresh = [segment for segment in addition.segments if segment.id not in known]
    if base is not None:
        # Before they are read: the collector may have taken them already.
        refuse_collectable(index.store, base, (file.key for segment in fresh for file in segment.files()))
    kept = [*old, *fresh]
    codec = read_codec(index.files, addition.codec, addition.encoder.dim)
    centroids = addition.codebook.centroids
    readers = {record.id: SegmentReader(index.files, record, codec, centroids) for record in kept}
    removed = set(removed)
    arriving = {one for segment in fresh for one in readers[segment.id].document_ids.to_pylist()}
    live = live_documents([readers[segment.id] for segment in old], among=removed | arriving)
    hidden: dict[str, list[int]] = {}
    gone = [live.pop(document_id) for document_id in removed & set(live)]
    for place in gone:
        hidden.setdefault(place.segment_id, []).append(place.row)
    added = changed = 0
    for segment in fresh:
        for document_id, place in live_documents([readers[segment.id]]).items():
            before = live.get(document_id)
            if before is not None and before.content_hash == place.content_hash:
                hidden.setdefault(segment.id, []).append(place.row)
                continue
            if before is not None:
                hidden.setdefault(before.segment_id, []).append(before.row)
            live[document_id] = place
            changed += before is not None
            added += before is None
    if base is not None and not (added or changed or gone):
        return None
    segments = [hide_rows(index, readers[record.id], hidden.get(record.id, [])) for record in kept]
    commit = commit_record(origin, added=added, changed=changed, deleted=len(gone))
    return next_version(base, commit, segments) if base else _first_version(addition, commit, segments)


def delete_documents(index: Index, base: Manifest, document_ids: Iterable[str], origin: Origin) -> Manifest | None:
    """The manifest without the given documents, or None when none of them is live."""
    readers = {reader.record.id: reader for reader in index.segments(base)}
    hidden: dict[str, list[int]] = {}
    for place in live_documents(readers.values(), among=set(document_ids)).values():
        hidden.setdefault(place.segment_id, []).append(place.row)
    if not hidden:
        return None
    segments = [hide_rows(index, reader, hidden.get(segment_id, [])) for segment_id, reader in readers.items()]
    return next_version(base, commit_record(origin, deleted=sum(map(len, hidden.values()))), segments)


def delete_matching(index: Index, base: Manifest, matching: Filter, origin: Origin) -> Manifest | None:
    """The manifest without the documents that match a filter, or None when no live one does. Raises InputError."""
    readers = index.segments(base)
    if readers:  # an index without documents has no columns that a filter could miss
        refuse_misfit(matching, filter_columns(readers))
    found = {reader: np.flatnonzero(matching_rows(matching, reader) & ~reader.deleted_rows) for reader in readers}
    deleted = sum(map(len, found.values()))
    if not deleted:
        return None
    segments = [hide_rows(index, reader, rows.tolist()) for reader, rows in found.items()]
    return next_version(base, commit_record(origin, deleted=deleted), segments)


def replace_codebook(
    index: Index, replaced: str, codebook: CodebookRecord, origin: Origin, assigned: Mapping[str, FileRef] | None = None
) -> Manifest:
    """Give the index another codebook in place of `replaced`, and every segment its centroid ids, by one commit.

    assigned: centroid ids that are written already, by segment. Others are written here, those of segments too that
    come meanwhile. Raises CodebookChanged when the codebook is no longer
    `replaced`, so of two that were trained at once, or long ago, one wins.
    """
    written = dict(assigned or {})

    def change(base: Manifest) -> Manifest:
        refuse_other_codebook(index, base, replaced)
        refuse_collectable(index.store, base, [codebook.file.key])
        codec, book = index.codec(base), read_codebook(index.files, codebook, base.encoder.dim)
        for record in base.segments:
            if record.id not in written:
                written[record.id] = write_centroids(index.store, record, index.files, codec, book)
        segments = [msgspec.structs.replace(one, centroids_file=written[one.id]) for one in base.segments]
        return next_version(base, commit_record(origin), segments, codebook=codebook)

    published = index.change(change)
    assert published is not None
    return published


def refuse_other_codebook(index: Index, base: Manifest, codebook_id: str) -> None:
    """Raise CodebookChanged unless `base` has the codebook that a change was computed with."""
    if base.codebook.id != codebook_id:
        raise CodebookChanged(
            f"{index.address}: another writer gave this index the codebook {base.codebook.id} while work was done "
            f"for {codebook_id}. Run again: finished work is used where it still fits."
        )


def refuse_other_encoder(base: Manifest, encoder: EncoderRecord, *, where: str) -> None:
    """Raise EncoderMismatch unless `encoder` makes the vectors that the index holds."""
    if base.encoder.fingerprint != encoder.fingerprint:
        theirs, ours = base.encoder, encoder
        raise EncoderMismatch(
            f"{where} was written with the encoder {theirs.name!r} (fingerprint {theirs.fingerprint[:16]}), "
            f"but this one is {ours.name!r} (fingerprint {ours.fingerprint[:16]}). "
            "Use the first, or build a new index with the second."
        )


def refuse_mismatch(index: Index, base: Manifest, addition: Addition) -> None:
    """Raise unless segments were made with what `base` is made with."""
    refuse_other_encoder(base, addition.encoder, where=index.address)
    theirs, ours = (base.codec, base.chunking), (addition.codec, addition.chunking)
    if theirs != ours:
        raise CommitConflict(
            f"{index.address}: another writer made this index while documents were encoded for it. "
            "Run again: finished work is used where it still fits."
        )
    refuse_other_codebook(index, base, addition.codebook.id)


def next_version(
    base: Manifest, commit: CommitRecord, segments: Iterable[SegmentRecord], codebook: CodebookRecord | None = None
) -> Manifest:
    """The manifest after `base` with other segments, those without live documents left out."""
    return msgspec.structs.replace(
        base,
        version=base.version + 1,
        parent_commit=base.commit.id,
        commit=commit,
        codebook=codebook or base.codebook,
        segments=[record for record in segments if not _is_empty(record)],
    )


def _first_version(addition: Addition, commit: CommitRecord, segments: Iterable[SegmentRecord]) -> Manifest:
    return Manifest(
        format_version=FORMAT_VERSION,
        reader_flags=[],
        writer_flags=[],
        index_id=keys.new_id(),
        version=1,
        parent_commit=None,
        commit=commit,
        encoder=addition.encoder,
        codec=addition.codec,
        chunking=addition.chunking,
        codebook=addition.codebook,
        segments=[record for record in segments if not _is_empty(record)],
        floor=1,
        horizon=0,
        tags={},
    )


def hide_rows(index: Index, reader: SegmentReader, rows: Sequence[int]) -> SegmentRecord:
    """The record of a segment after hiding some more of its documents, in a new deletion vector."""
    if not rows:
        return reader.record
    deleted_rows = reader.deleted_rows.copy()
    deleted_rows[list(rows)] = True
    ordinals = np.flatnonzero(deleted_rows[reader.document_rows]).astype(np.uint32)
    key = keys.deletions(reader.record.id, keys.new_id())
    file = write_object(index.store, key, write_npz({"ordinals": ordinals}))
    deletions = DeletionRecord(passages=len(ordinals), documents=int(deleted_rows.sum()), file=file)
    return msgspec.structs.replace(reader.record, deletions=deletions)


def _is_empty(record: SegmentRecord) -> bool:
    return record.deletions is not None and record.deletions.documents == record.documents


def commit_record(
    origin: Origin, *, added: int = 0, changed: int = 0, deleted: int = 0, restored: int | None = None
) -> CommitRecord:
    """The record of a new commit, with an id of its own."""
    return CommitRecord(
        id=keys.new_id(),
        operation=origin.operation,
        created_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        added=added,
        changed=changed,
        deleted=deleted,
        rejected=origin.rejected,
        rejected_file=origin.rejected_file,
        source_fingerprint=origin.source_fingerprint,
        restored=restored,
    )

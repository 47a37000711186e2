"""How an index changes: documents added, replaced and deleted, each as a function to `commit` (SPEC §8).

A change is computed from the manifest it is applied to, again after every lost race, and compares
document ids and content hashes. So the same batch twice, late or at the same time as another writer,
changes nothing the second time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec
import numpy as np

from index_format import keys
from index_format.errors import CommitConflict, EncoderMismatch
from index_format.files import write_object
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
from index_format.segment import SegmentReader, read_codec


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


def live_documents(segments: Iterable[SegmentReader]) -> dict[str, Place]:
    """Every live document by id."""
    places: dict[str, Place] = {}
    for segment in segments:
        ids, hashes = segment.document_ids.to_pylist(), segment.content_hashes
        for row in np.flatnonzero(~segment.deleted_rows):
            places[ids[row]] = Place(segment.record.id, int(row), hashes[row])
    return places


def add_segments(index: Index, base: Manifest | None, addition: Addition, origin: Origin) -> Manifest | None:
    """The manifest after `addition`, or None when `base` holds all of it already.

    A document that `base` holds with equal content is hidden in the new segment; with other content, in the old.
    Raises EncoderMismatch or CommitConflict when `base` was made otherwise.
    """
    if base is not None:
        _refuse_mismatch(index, base, addition)
    known = {segment.id for segment in base.segments} if base else set()
    fresh = [segment for segment in addition.segments if segment.id not in known]
    kept = [*(base.segments if base else []), *fresh]
    codec = read_codec(index.files, addition.codec, addition.encoder.dim)
    centroids = addition.codebook.centroids
    readers = {record.id: SegmentReader(index.files, record, codec, centroids) for record in kept}
    live = live_documents(readers[segment_id] for segment_id in known)
    hidden: dict[str, list[int]] = {}
    added = changed = 0
    for segment in fresh:
        for document_id, place in live_documents([readers[segment.id]]).items():
            old = live.get(document_id)
            if old is not None and old.content_hash == place.content_hash:
                hidden.setdefault(segment.id, []).append(place.row)
                continue
            if old is not None:
                hidden.setdefault(old.segment_id, []).append(old.row)
            live[document_id] = place
            changed += old is not None
            added += old is None
    if base is not None and not added and not changed:
        return None
    segments = [_hide(index, readers[record.id], hidden.get(record.id, [])) for record in kept]
    commit = _commit_record(origin, added=added, changed=changed)
    return Manifest(
        format_version=FORMAT_VERSION,
        reader_flags=base.reader_flags if base else [],
        writer_flags=base.writer_flags if base else [],
        index_id=base.index_id if base else keys.new_id(),
        version=base.version + 1 if base else 1,
        parent_commit=base.commit.id if base else None,
        commit=commit,
        encoder=addition.encoder,
        codec=addition.codec,
        chunking=addition.chunking,
        codebook=addition.codebook,
        segments=[record for record in segments if not _is_empty(record)],
    )


def delete_documents(index: Index, base: Manifest, document_ids: Iterable[str], origin: Origin) -> Manifest | None:
    """The manifest without the given documents, or None when none of them is live."""
    readers = {reader.record.id: reader for reader in index.segments(base)}
    live = live_documents(readers.values())
    hidden: dict[str, list[int]] = {}
    for document_id in set(document_ids) & set(live):
        place = live[document_id]
        hidden.setdefault(place.segment_id, []).append(place.row)
    if not hidden:
        return None
    segments = [_hide(index, reader, hidden.get(segment_id, [])) for segment_id, reader in readers.items()]
    return msgspec.structs.replace(
        base,
        version=base.version + 1,
        parent_commit=base.commit.id,
        commit=_commit_record(origin, deleted=sum(map(len, hidden.values()))),
        segments=[record for record in segments if not _is_empty(record)],
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


def _refuse_mismatch(index: Index, base: Manifest, addition: Addition) -> None:
    refuse_other_encoder(base, addition.encoder, where=index.address)
    theirs, ours = (base.codec, base.chunking), (addition.codec, addition.chunking)
    if theirs != ours or base.codebook.id != addition.codebook.id:
        raise CommitConflict(
            f"{index.address}: another writer made or changed this index while documents were encoded for it. "
            "Run again: finished work is used where it still fits."
        )


def _hide(index: Index, reader: SegmentReader, rows: Sequence[int]) -> SegmentRecord:
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


def _commit_record(origin: Origin, *, added: int = 0, changed: int = 0, deleted: int = 0) -> CommitRecord:
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
    )

"""Several segments become one, without their deleted documents (SPEC §8).

Streams are cut and joined: codes, scales, centroid ids and outliers are copied and never decoded, so every score stays
what it was, bit for bit. What is deleted while that is done is carried to the new segment, and when one of the old
segments is no longer what it was, the new one is dropped: no lock and no fence is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from index_format import schema
from index_format.change import Origin, commit_record, hide_rows, next_version
from index_format.codebook import exclusive_sum
from index_format.commit import refuse_collectable, was_replaced
from index_format.errors import CommitConflict, ObjectMissing
from index_format.index import Index
from index_format.manifest import Manifest, SegmentRecord
from index_format.npz import MAX_WRITTEN_BYTES
from index_format.segment import (
    PassageCentroids,
    SegmentContent,
    SegmentReader,
    write_passage_centroids,
    write_segment,
)


@dataclass(frozen=True, slots=True)
class CompactionPolicy:
    """When segments are rewritten.

    alike: so many segments of like size become one. deleted_share: of its passages, from which a segment is
    rewritten alone. most_tokens: of a new segment; it bounds the memory of the work. most_bytes: of each of its files
    of arrays; one that had more could not be written.
    """

    alike: int = 8
    deleted_share: float = 0.25
    most_tokens: int = 2_000_000
    most_bytes: int = MAX_WRITTEN_BYTES


@dataclass(frozen=True, slots=True)
class Compaction:
    """A new segment that is written but not published, and what it was made of.

    rows: for each input, the row in the output of each of its documents, -1 for those that were deleted.
    """

    inputs: list[SegmentRecord]
    output: SegmentRecord
    rows: list[NDArray[np.int64]]


@dataclass(frozen=True, slots=True)
class Compacted:
    """What a round of compaction did. `discarded` groups had changed meanwhile and wait for the next round."""

    version: int
    segments_before: int
    segments_after: int
    rewritten: int
    discarded: int


def choose_groups(segments: Sequence[SegmentRecord], policy: CompactionPolicy) -> list[list[SegmentRecord]]:
    """Which segments to rewrite together, in their order; no segment is in two groups.

    Sizes are alike within a factor of four. So a token is rewritten a few times while an index grows a
    thousandfold, not once for every batch.
    """
    tiers: dict[int, list[SegmentRecord]] = {}
    groups: list[list[SegmentRecord]] = []
    for record in segments:
        if _live_tokens(record) * 2 <= policy.most_tokens:
            tiers.setdefault(_live_tokens(record).bit_length() // 2, []).append(record)
        elif _deleted_share(record) >= policy.deleted_share:
            groups.append([record])
    for tier in tiers.values():
        whole, rest = _packs(tier, policy) if len(tier) >= policy.alike else ([], tier)
        groups += whole
        groups += [[record] for record in rest if _deleted_share(record) >= policy.deleted_share]
    return groups


def compact_index(index: Index, policy: CompactionPolicy | None = None) -> Compacted:
    """Rewrite what the policy chooses, one commit for each group. Raises IndexNotFound."""
    policy = policy or CompactionPolicy()
    before = index.current()
    rewritten = discarded = 0
    for group in choose_groups(before.segments, policy):
        try:
            for mergeable in _of_one_metadata(index, before, group):
                if len(mergeable) == 1 and _deleted_share(mergeable[0]) < policy.deleted_share:
                    continue
                if _try_to_publish(index, before, mergeable):
                    rewritten += len(mergeable)
                else:
                    discarded += 1
        except ObjectMissing:  # segments of `before` were replaced by others and collected meanwhile
            if not was_replaced(index.store, before):
                raise
            discarded += 1
    after = index.current()
    return Compacted(after.version, len(before.segments), len(after.segments), rewritten, discarded)


def _try_to_publish(index: Index, base: Manifest, group: Sequence[SegmentRecord]) -> bool:
    """Whether a group could be rewritten; not when other writers changed its segments meanwhile."""
    try:
        publish_compaction(index, merge_segments(index, base, group))
    except CommitConflict:
        return False
    return True


def merge_segments(index: Index, base: Manifest, group: Sequence[SegmentRecord]) -> Compaction:
    """Write one segment with the live documents of the given ones. Nobody sees it before it is published."""
    codec = index.codec(base)
    parts = [_live_part(SegmentReader(index.files, record, codec, base.codebook.centroids)) for record in group]
    struct = merged_metadata([part.metadata for part in parts])
    assert struct is not None, "segments of one group have metadata that fits together"
    starts = np.cumsum([0, *(part.documents.num_rows for part in parts)])
    content = SegmentContent(
        encoder=group[0].encoder,  # that of all: a version of two encoders is not read
        documents=pa.concat_tables([_with_metadata(part.documents, struct) for part in parts]),
        passages=pa.concat_tables(
            [_shifted(part.passages, int(start)) for part, start in zip(parts, starts[:-1], strict=True)]
        ),
        offsets=exclusive_sum(np.concatenate([part.token_counts for part in parts])),
        codes=np.concatenate([part.codes for part in parts]),
        scales=np.concatenate([part.scales for part in parts]),
    )
    segment = write_segment(index.store, content)
    touched = PassageCentroids(
        offsets=exclusive_sum(np.concatenate([part.centroid_counts for part in parts])),
        ids=np.concatenate([part.centroid_ids for part in parts]),
        outlier_offsets=exclusive_sum(np.concatenate([part.outlier_counts for part in parts])),
        outlier_codes=np.concatenate([part.outlier_codes for part in parts]),
        outlier_scales=np.concatenate([part.outlier_scales for part in parts]),
    )
    file = write_passage_centroids(index.store, segment, touched)
    rows = [np.where(part.rows < 0, -1, part.rows + start) for part, start in zip(parts, starts[:-1], strict=True)]
    return Compaction(list(group), segment.with_centroids(file), rows)


def publish_compaction(index: Index, done: Compaction) -> Manifest:
    """Put a new segment in the place of those that it was made of. Raises CommitConflict when they changed."""

    published = index.change(lambda base: replace_segments(index, base, done))
    assert published is not None
    return published


def replace_segments(index: Index, base: Manifest, done: Compaction) -> Manifest:
    """The manifest with the new segment at the place of its first input, later deletions carried over."""
    refuse_changed_inputs(index, base, done)
    refuse_collectable(index.store, base, [file.key for file in done.output.files()])
    codec, centroids = index.codec(base), base.codebook.centroids
    current = {record.id: record for record in base.segments}
    hidden: list[int] = []
    for record, rows in zip(done.inputs, done.rows, strict=True):
        deleted = SegmentReader(index.files, current[record.id], codec, centroids).deleted_rows
        refuse_returned_documents(index, rows, deleted)
        hidden += carried_deletions(rows, deleted)
    output = hide_rows(index, SegmentReader(index.files, done.output, codec, centroids), hidden)
    places = {record.id: None for record in done.inputs} | {done.inputs[0].id: output}
    segments = [places.get(record.id, record) for record in base.segments]
    return next_version(base, commit_record(Origin("compact")), [record for record in segments if record])


def refuse_changed_inputs(index: Index, base: Manifest, done: Compaction) -> None:
    """Raise CommitConflict unless all inputs are in `base`, with the same centroid ids."""
    current = {record.id: _without_deletions(record) for record in base.segments}
    if any(current.get(record.id) != _without_deletions(record) for record in done.inputs):
        raise CommitConflict(f"{index.address}: other writers replaced segments while they were compacted. Run again.")


def refuse_returned_documents(index: Index, rows: NDArray[np.int64], deleted: NDArray[np.bool_]) -> None:
    """Raise CommitConflict when a document that was left out as deleted is live: a rollback brought it back."""
    if (~deleted[rows < 0]).any():
        raise CommitConflict(f"{index.address}: documents came back while they were compacted away. Run again.")


def carried_deletions(rows: NDArray[np.int64], deleted: NDArray[np.bool_]) -> list[int]:
    """Rows of the output whose documents were deleted in the input after it was read."""
    gone: list[int] = rows[deleted & (rows >= 0)].tolist()
    return gone


def merged_metadata(types: Sequence[pa.StructType]) -> pa.StructType | None:
    """The struct that holds every value of the given ones unchanged, or None when there is none.

    Integers may widen. Anything else would turn a number or a date into another, which a reader would see.
    """
    fields: dict[str, pa.DataType] = {}
    for struct in types:
        for field in struct:
            known = fields.get(field.name, pa.null())
            wider = _wider(known, field.type)
            if wider is None:
                return None
            fields[field.name] = wider
    return pa.struct(list(fields.items()))


@dataclass(frozen=True, slots=True)
class _Part:
    """The live documents of one segment, and the row that each of its documents has among them (-1: deleted)."""

    documents: pa.Table
    passages: pa.Table
    rows: NDArray[np.int64]
    token_counts: NDArray[np.int64]
    codes: NDArray[np.uint8]
    scales: NDArray[np.float16]
    centroid_counts: NDArray[np.int64]
    centroid_ids: NDArray[np.uint16] | NDArray[np.uint32]
    outlier_counts: NDArray[np.int64]
    outlier_codes: NDArray[np.uint8]
    outlier_scales: NDArray[np.float16]

    @property
    def metadata(self) -> pa.StructType:
        return schema.metadata_type(self.documents.schema)


def _live_part(reader: SegmentReader) -> _Part:
    live_rows, live = ~reader.deleted_rows, ~reader.deleted
    rows = np.where(live_rows, np.cumsum(live_rows) - 1, -1)
    passages = reader.passages.filter(pa.array(live))
    own_rows = pa.array(rows[passages["document"].to_numpy()], pa.uint32())
    codes, touched = reader.codes, reader.centroids
    token_counts, centroid_counts = _lengths(codes.offsets), _lengths(touched.offsets)
    outlier_counts = _lengths(touched.outlier_offsets)
    tokens, outliers = np.repeat(live, token_counts), np.repeat(live, outlier_counts)
    return _Part(
        documents=reader.read_table().filter(pa.array(live_rows)),
        passages=passages.set_column(0, schema.PASSAGES.field("document"), own_rows),
        rows=rows,
        token_counts=token_counts[live],
        codes=codes.codes[tokens],
        scales=codes.scales[tokens],
        centroid_counts=centroid_counts[live],
        centroid_ids=touched.ids[np.repeat(live, centroid_counts)],
        outlier_counts=outlier_counts[live],
        outlier_codes=touched.outlier_codes[outliers],
        outlier_scales=touched.outlier_scales[outliers],
    )


def _lengths(offsets: NDArray[np.uint32]) -> NDArray[np.int64]:
    return (offsets[1:] - offsets[:-1]).astype(np.int64)


def _shifted(passages: pa.Table, start: int) -> pa.Table:
    rows = passages["document"].to_numpy() + np.uint32(start)
    return passages.set_column(0, schema.PASSAGES.field("document"), pa.array(rows, pa.uint32()))


def _with_metadata(documents: pa.Table, struct: pa.StructType) -> pa.Table:
    target = schema.documents_schema(struct)
    columns = []
    for field in target:
        there = field.name in documents.schema.names
        column = documents[field.name] if there else pa.nulls(documents.num_rows, field.type)
        columns.append(column.cast(field.type) if field.name == schema.METADATA else column)
    return pa.table(columns, schema=target)


def _of_one_metadata(index: Index, base: Manifest, group: Sequence[SegmentRecord]) -> list[list[SegmentRecord]]:
    """A group in parts whose metadata fits into one struct."""
    parts: list[tuple[pa.StructType, list[SegmentRecord]]] = []
    codec = index.codec(base)
    for record in group:
        own = SegmentReader(index.files, record, codec, base.codebook.centroids).metadata_type
        for at, (struct, members) in enumerate(parts):
            merged = merged_metadata([struct, own])
            if merged is not None:
                parts[at] = (merged, [*members, record])
                break
        else:
            parts.append((own, [record]))
    return [members for _, members in parts]


def _wider(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    if one == other or pa.types.is_null(other):
        return one
    if pa.types.is_null(one):
        return other
    signed = pa.types.is_signed_integer(one) and pa.types.is_signed_integer(other)
    unsigned = pa.types.is_unsigned_integer(one) and pa.types.is_unsigned_integer(other)
    if signed or unsigned:
        return max(one, other, key=lambda kind: kind.bit_width)
    return None


def _packs(
    tier: Sequence[SegmentRecord], policy: CompactionPolicy
) -> tuple[list[list[SegmentRecord]], list[SegmentRecord]]:
    """Consecutive groups of at least two within the bounds of the policy, and the segments left over."""
    packs: list[list[SegmentRecord]] = [[]]
    tokens = size = 0
    for record in tier:
        if tokens + _live_tokens(record) > policy.most_tokens or size + _largest_arrays(record) > policy.most_bytes:
            packs.append([])
            tokens = size = 0
        packs[-1].append(record)
        tokens += _live_tokens(record)
        size += _largest_arrays(record)
    return [pack for pack in packs if len(pack) > 1], [pack[0] for pack in packs if len(pack) == 1]


def _live_tokens(record: SegmentRecord) -> int:
    """Tokens of live passages, as the share of deleted ones lets expect; at least 1."""
    return max(1, round(record.tokens * (1 - _deleted_share(record))))


def _largest_arrays(record: SegmentRecord) -> int:
    """Bytes of the larger one of its two files of arrays. Each file of a segment that is made of several has no more
    than theirs together: deleted passages count as if they stayed."""
    return max(record.codes_file.size, record.centroids_file.size)


def _deleted_share(record: SegmentRecord) -> float:
    return record.deletions.passages / record.passages if record.deletions else 0.0


def _without_deletions(record: SegmentRecord) -> SegmentRecord:
    return msgspec.structs.replace(record, deletions=None)

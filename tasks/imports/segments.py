"""A peer's vectors to segments of ours: decompressed a block at a time, and compressed at once."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from encoding.memory import give_back
from index_format import schema
from index_format.codebook import exclusive_sum
from index_format.codec import Codec
from index_format.errors import SourceError
from index_format.index import Index
from index_format.manifest import EncoderRecord
from index_format.segment import EncodedSegment, SegmentContent, write_segment
from serving.compress import Compressed, compress
from tasks import progress
from tasks.device import processor_share
from tasks.imports.documents import NO_DOCUMENT, Gathered
from tasks.imports.peer import PeerIndex, expect
from tasks.rows import Rejected
from tasks.sources import read_rows
from tasks.stage_documents import content_hash, documents_table

SEGMENT_TOKENS = 1 << 20  # 70 MB of codes at 128 dimensions and 4 bits
_BLOCK = 16384  # tokens decompressed at once


def sampled_vectors(peer: PeerIndex, positions: list[int]) -> list[NDArray[np.float32]]:
    """The token vectors of some passages, float32 [T, D] each, in the order of `positions`."""
    starts = np.cumsum([0, *map(len, peer.chunk_lengths)])
    found = []
    for position in positions:
        number = int(np.searchsorted(starts, position, side="right")) - 1
        ends = np.cumsum(peer.chunk_lengths[number])
        own = position - starts[number]
        tokens = slice(int(ends[own] - peer.chunk_lengths[number][own]), int(ends[own]))
        chunk = peer.checked_chunk(number)
        found.append(_decompress(peer, number, chunk.codes[tokens], chunk.residuals[tokens]))
    return found


def write_segments(
    index: Index, peer: PeerIndex, gathered: Gathered, codec: Codec, encoder: EncoderRecord
) -> list[EncodedSegment]:
    """Write the passages of a peer's index as segments, in their order. No more than one is in memory.

    encoder: what made the peer's vectors.
    """
    progress.report("import", total=int(peer.lengths.sum()))
    compressed = _compressed(peer, codec)
    kept = gathered.document != NO_DOCUMENT
    tokens = np.zeros(gathered.documents, np.int64)
    np.add.at(tokens, gathered.document[kept], peer.lengths[kept])
    segments, first = [], 0
    for table in _tables(gathered, tokens):
        segments.append(write_segment(index.store, _content(table, first, gathered, compressed, encoder)))
        first += table.num_rows
        give_back()
    return segments


def _tables(gathered: Gathered, tokens: NDArray[np.int64]) -> Iterator[pa.Table]:
    """The documents of each segment: so many that its tokens come to SEGMENT_TOKENS."""
    pending: list[pa.Table] = []
    taken = held = row = 0
    for rows in read_rows(gathered.rows):
        assert not isinstance(rows, Rejected)  # the file is ours
        table = documents_table(rows.table, [content_hash(*_said(one)) for one in rows.table.to_pylist()])
        start = 0
        for place in range(table.num_rows):
            held += int(tokens[row + place])
            if held - taken >= SEGMENT_TOKENS:
                pending.append(table.slice(start, place + 1 - start))
                yield pa.concat_tables(pending)
                pending, start, taken = [], place + 1, held
        pending.append(table.slice(start))
        row += table.num_rows
    if sum(one.num_rows for one in pending):
        yield pa.concat_tables(pending)


def _said(row: dict[str, object]) -> tuple[str | None, str, dict[str, object] | None]:
    return row["title"], row["text"], row.get(schema.METADATA)  # type: ignore[return-value]  # the columns' types


def _content(
    table: pa.Table,
    first: int,
    gathered: Gathered,
    compressed: Iterator[tuple[int, Compressed]],
    encoder: EncoderRecord,
) -> SegmentContent:
    """A segment of the documents from `first` on; takes their passages off `compressed`."""
    last = first + table.num_rows
    positions = np.flatnonzero((gathered.document >= first) & (gathered.document < last))
    _check_texts(table, gathered, positions, first)
    own = set(positions.tolist())
    taken: list[Compressed] = []
    while len(taken) < len(positions):
        position, vectors = next(compressed)
        if position in own:
            taken.append(vectors)
    rows = (gathered.document[positions] - first).astype(np.uint32)
    columns = {
        "document": rows,
        "number": np.arange(len(rows)) - np.searchsorted(rows, rows),
        "start": gathered.start[positions],
        "end": gathered.end[positions],
    }
    return SegmentContent(
        encoder=encoder.fingerprint,
        documents=table,
        passages=pa.table(columns, schema=schema.PASSAGES),
        offsets=exclusive_sum(np.array([len(scales) for _, scales in taken], np.uint32)),
        codes=np.concatenate([codes for codes, _ in taken]),
        scales=np.concatenate([scales for _, scales in taken]),
    )


def _check_texts(table: pa.Table, gathered: Gathered, positions: NDArray[np.int64], first: int) -> None:
    """Raise SourceError when a text has another length than its passages were counted by."""
    ends = np.zeros(table.num_rows, np.int64)
    np.maximum.at(ends, gathered.document[positions] - first, gathered.end[positions].astype(np.int64))
    for row, text in enumerate(table["text"].to_pylist()):
        if len(text) != ends[row]:
            own = table["id"][row].as_py()
            raise SourceError(f"document {own!r}: its text cannot be stored as it is; nothing was imported.")


def _compressed(peer: PeerIndex, codec: Codec) -> Iterator[tuple[int, Compressed]]:
    """The codes and scales of every passage, with its position."""
    position = 0
    for number, lengths in enumerate(peer.chunk_lengths):
        chunk, ends = peer.checked_chunk(number), np.cumsum(lengths)
        first = 0
        while first < len(lengths):
            start = int(ends[first] - lengths[first])
            last = max(first + 1, int(np.searchsorted(ends, start + _BLOCK, side="right")))
            tokens = slice(start, int(ends[last - 1]))
            vectors = _decompress(peer, number, chunk.codes[tokens], chunk.residuals[tokens])
            codes, scales = compress(codec, vectors, threads=processor_share())
            cuts = (ends[first : last - 1] - start).tolist()
            for own in zip(np.split(codes, cuts), np.split(scales, cuts), strict=True):
                yield position, own
                position += 1
            progress.report("import", advance=tokens.stop - tokens.start)
            first = last


def _decompress(
    peer: PeerIndex, number: int, codes: NDArray[np.integer], residuals: NDArray[np.uint8]
) -> NDArray[np.float32]:
    highest = len(peer.residuals.centroids) - 1
    inside = len(codes) == 0 or (int(codes.min()) >= 0 and int(codes.max()) <= highest)
    expect(inside, f"{peer.folder}, chunk {number}: codes", f"0 to {highest}", "others")
    return peer.residuals.decompress(codes, residuals)

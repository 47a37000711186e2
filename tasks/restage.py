"""The documents of an index as shards again, from the texts that it holds itself: no source is needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from index_format import schema
from index_format.index import Index
from index_format.manifest import Manifest
from index_format.segment import EncodedSegment, SegmentReader
from tasks import progress, stage_documents
from tasks.prefect_task import as_task
from tasks.stage_documents import Shard, write_shard


def restage_documents(
    address: str, run_id: str, manifest: Manifest, made: Sequence[EncodedSegment], first_number: int
) -> list[Shard]:
    """Stage the live documents of a version that none of the segments in `made` holds with equal content."""
    index = Index.at(address)
    done = set[tuple[str, bytes]]().union(*(_content(index, segment) for segment in made))
    shards: list[Shard] = []
    for reader in index.segments(manifest):
        for table in _parts(_wanted(reader, done)):
            shards.append(write_shard(index, run_id, first_number + len(shards), table))
            progress.report("load", advance=table.num_rows)
    return shards


restage_documents_task = as_task(restage_documents, "restage documents")


def _content(index: Index, segment: EncodedSegment) -> set[tuple[str, bytes]]:
    file = schema.open_parquet(index.files.path(segment.documents_file), segment.documents)
    table = file.read(columns=["id", "content_hash"])
    return set(zip(table["id"].to_pylist(), table["content_hash"].to_pylist(), strict=True))


def _wanted(reader: SegmentReader, done: set[tuple[str, bytes]]) -> pa.Table:
    rows = np.flatnonzero(~reader.deleted_rows).tolist()
    ids, hashes = reader.document_ids.to_pylist(), reader.content_hashes.to_pylist()
    wanted = [row for row in rows if (ids[row], hashes[row]) not in done]
    return reader.read_table().take(pa.array(wanted, pa.int64()))


def _parts(table: pa.Table) -> Iterator[pa.Table]:
    """A table in shards, cut as those of a source are."""
    lengths = pc.utf8_length(table["text"]).to_pylist()
    start = characters = 0
    for row, length in enumerate(lengths, start=1):
        characters += length
        enough = characters >= stage_documents.SHARD_CHARACTERS or row - start >= stage_documents.SHARD_DOCUMENTS
        if enough or row == len(lengths):
            yield table.slice(start, row - start)
            start, characters = row, 0

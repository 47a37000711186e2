"""The centroids that each passage of a segment touches: what candidates are found by."""

from __future__ import annotations

from threading import Lock

import msgspec
from cachetools import LRUCache, cached

from index_format.codebook import Codebook
from index_format.errors import EncoderMismatch
from index_format.index import Index
from index_format.manifest import CodebookRecord, CodecRecord, SegmentRecord
from index_format.segment import EncodedSegment, read_codebook, read_codec, write_centroids
from serving.nearest import NearestCentroids
from tasks import progress
from tasks.prefect_task import as_task
from tasks.train_codebook import nearest_of


def assign_centroids(
    segment: EncodedSegment | SegmentRecord, address: str, codebook: CodebookRecord, codec: CodecRecord, dim: int
) -> SegmentRecord:
    """Write the centroid ids of one segment, which may have others, and return its complete record.

    Raises EncoderMismatch when the codebook lies among vectors of another encoder.
    """
    if segment.encoder != codebook.encoder:
        raise EncoderMismatch(
            f"{address}: segment {segment.id} is of the encoder {segment.encoder!r}, codebook {codebook.id} of "
            f"{codebook.encoder!r}. Another writer made the index anew meanwhile: run again."
        )
    index = Index.at(address)
    book, nearest = _opened(index, codebook, dim)
    codec_read = read_codec(index.files, codec, dim)
    file = write_centroids(index.store, segment, index.files, codec_read, book, nearest=nearest.find)
    progress.report("centroids", advance=segment.tokens)
    if isinstance(segment, SegmentRecord):
        return msgspec.structs.replace(segment, centroids_file=file)
    return segment.with_centroids(file)


@cached(LRUCache(2), key=lambda index, codebook, dim: (index.address, codebook.id), lock=Lock())  # noqa: ARG005
def _opened(index: Index, codebook: CodebookRecord, dim: int) -> tuple[Codebook, NearestCentroids]:
    """A codebook and what finds its nearest centroids: the same for the next segment, groups of centroids and all."""
    book = read_codebook(index.files, codebook, dim)
    return book, nearest_of(book)


assign_centroids_task = as_task(assign_centroids, "assign centroids")

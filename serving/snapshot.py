"""One version of an index, opened and immutable while it is held."""

from __future__ import annotations

from dataclasses import dataclass

from index_format.codebook import Codebook
from index_format.codec import Codec
from index_format.index import Index
from index_format.manifest import Manifest
from index_format.segment import SegmentReader


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A manifest with its codec, codebook and segments at hand."""

    manifest: Manifest
    codec: Codec
    codebook: Codebook
    segments: list[SegmentReader]

    @property
    def version(self) -> int:
        return self.manifest.version


def open_snapshot(index: Index, manifest: Manifest | None = None, previous: Snapshot | None = None) -> Snapshot:
    """Open a version, the current one unless a manifest is given. Every file is checked against its hash.

    Segments that `previous` holds unchanged are shared with it.
    Raises IndexNotFound, IndexCorrupt or StorageError.
    """
    manifest = manifest or index.current()
    held = {segment.record.id: segment for segment in previous.segments} if previous else {}
    index.files.fetch(manifest.files())
    index.files.hold(manifest.files())
    codec, codebook = index.codec(manifest), index.codebook(manifest)
    segments = []
    for record in manifest.segments:
        segment = held.get(record.id)
        if segment is None or segment.record != record:
            segment = SegmentReader(index.files, record, codec)
            segment.load()
            segment.refuse_foreign_centroids(len(codebook.centroids))
        segments.append(segment)
    return Snapshot(manifest, codec, codebook, segments)

"""All vectors of an index made anew, with another encoder, codec or cut, and put in place by one commit (SPEC §8).

It is fenced by what documents say: the commit names the new segments only if they hold every live document of the
head with its very content hash. So nothing that another writer did meanwhile is lost or undone, without a lock.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from index_format.change import Addition, Origin, commit_record, hide_rows, live_documents, next_version
from index_format.commit import refuse_collectable
from index_format.errors import CommitConflict, NotCaughtUp
from index_format.index import Index
from index_format.manifest import Manifest, SegmentRecord
from index_format.segment import SegmentReader, read_codec


def replace_vectors(index: Index, base: Manifest, replaced: Manifest, made: Addition, origin: Origin) -> Manifest:
    """The manifest that holds the live documents of `base` in the segments of `made`, and nothing else.

    replaced: the version that the work began with. Raises CommitConflict when `base` has another encoder, codec or
    cut by now, and NotCaughtUp when it has live documents that are not in `made`.
    """
    if _vectors_of(base) != _vectors_of(replaced):
        raise CommitConflict(f"{index.address}: another writer made its vectors anew meanwhile. Run again.")
    refuse_collectable(index.store, base, (file.key for segment in made.segments for file in segment.files()))
    live = {document_id: place.content_hash for document_id, place in live_documents(index.segments(base)).items()}
    codec = read_codec(index.files, made.codec, made.encoder.dim)
    segments: list[SegmentRecord] = []
    for record in made.segments:
        reader = SegmentReader(index.files, record, codec, made.codebook.centroids)
        wanted = [
            # Taken out of `live` when found: a document that was encoded twice is shown once.
            live.get(document_id) == content_hash and live.pop(document_id, None) is not None
            for document_id, content_hash in zip(
                reader.document_ids.to_pylist(), reader.content_hashes.to_pylist(), strict=True
            )
        ]
        segments.append(hide_rows(index, reader, [row for row, kept in enumerate(wanted) if not kept]))
    _refuse_missing(index, base, live)
    proposed = next_version(base, commit_record(origin), segments, codebook=made.codebook)
    return msgspec.structs.replace(proposed, encoder=made.encoder, codec=made.codec, chunking=made.chunking)


def _vectors_of(manifest: Manifest) -> tuple[object, ...]:
    return manifest.encoder.fingerprint, manifest.codec, manifest.chunking


def _refuse_missing(index: Index, base: Manifest, missing: dict[str, bytes]) -> None:
    if missing:
        examples: Sequence[str] = sorted(missing)[:3]
        raise NotCaughtUp(
            f"{index.address}: version {base.version} has {len(missing)} documents that were not encoded anew yet, "
            f"among them {', '.join(map(repr, examples))}."
        )

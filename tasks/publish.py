"""The commit of a flow: before it nothing of the run is visible, after it everything is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from index_format import change, reindex
from index_format.change import Addition, Origin
from index_format.commit import commit
from index_format.filters import Filter
from index_format.index import Index
from index_format.manifest import CodebookRecord, FileRef, Manifest
from tasks import progress
from tasks.prefect_task import as_task


def publish(address: str, addition: Addition, origin: Origin, removed: Sequence[str] = ()) -> Manifest | None:
    """Delete the ids in `removed` and add segments, as one new version.

    Returns its manifest, or None when that changes nothing.
    """
    index = Index.at(address)
    progress.report("publish", total=1)
    manifest = commit(index.store, lambda base: change.add_segments(index, base, addition, origin, removed))
    progress.report("publish", advance=1)
    return manifest


publish_task = as_task(publish, "publish")


def delete_documents(address: str, document_ids: Sequence[str], origin: Origin) -> Manifest | None:
    """Delete documents as one new version. Returns its manifest, or None when none of them was there."""
    index = Index.at(address)
    return index.change(lambda base: change.delete_documents(index, base, document_ids, origin))


delete_documents_task = as_task(delete_documents, "delete documents")


def delete_matching(address: str, matching: Filter, origin: Origin) -> Manifest | None:
    """Delete the documents that match a filter as one new version. Returns its manifest, or None when none did."""
    index = Index.at(address)
    return index.change(lambda base: change.delete_matching(index, base, matching, origin))


delete_matching_task = as_task(delete_matching, "delete matching documents")


def publish_vectors(address: str, replaced: Manifest, made: Addition, origin: Origin) -> Manifest:
    """Put segments with vectors of another encoder, codec or cut in the place of all others, as one new version.

    Raises NotCaughtUp when documents came that they do not hold.
    """
    index = Index.at(address)
    published = index.change(lambda base: reindex.replace_vectors(index, base, replaced, made, origin))
    assert published is not None
    return published


publish_vectors_task = as_task(publish_vectors, "publish vectors")


def publish_codebook(
    address: str, replaced: str, codebook: CodebookRecord, assigned: Mapping[str, FileRef], origin: Origin
) -> Manifest:
    """Put a codebook in the place of another, as one new version; `assigned` are centroids files by segment."""
    return change.replace_codebook(Index.at(address), replaced, codebook, origin, assigned)


publish_codebook_task = as_task(publish_codebook, "publish codebook")

"""The commit of a flow: before it nothing of the run is visible, after it everything is."""

from __future__ import annotations

from index_format import change
from index_format.change import Addition, Origin
from index_format.commit import commit
from index_format.filters import Filter
from index_format.index import Index
from index_format.manifest import Manifest
from tasks import progress
from tasks.prefect_task import as_task


def publish(address: str, addition: Addition, origin: Origin) -> Manifest | None:
    """Add segments as one new version. Returns its manifest, or None when the index held all of it already."""
    index = Index.at(address)
    progress.report("publish", total=1)
    manifest = commit(index.store, lambda base: change.add_segments(index, base, addition, origin))
    progress.report("publish", advance=1)
    return manifest


publish_task = as_task(publish, "publish")


def delete_documents(address: str, document_ids: list[str], origin: Origin) -> Manifest | None:
    """Delete documents as one new version. Returns its manifest, or None when none of them was there."""
    index = Index.at(address)
    return index.change(lambda base: change.delete_documents(index, base, document_ids, origin))


delete_documents_task = as_task(delete_documents, "delete documents")


def delete_matching(address: str, matching: Filter, origin: Origin) -> Manifest | None:
    """Delete the documents that match a filter as one new version. Returns its manifest, or None when none did."""
    index = Index.at(address)
    return index.change(lambda base: change.delete_matching(index, base, matching, origin))


delete_matching_task = as_task(delete_matching, "delete matching documents")

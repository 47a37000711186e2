"""Changes over HTTP: the steps of the flows, run in the server's process."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from colonnade.changes import add_source, delete_ids, delete_where
from colonnade.given import as_source
from colonnade.records import Change
from index_format.filters import Filter
from index_format.index import Index
from serving.device import Device
from serving.http.parts import NewDocument, Written


@dataclass(frozen=True, slots=True)
class IndexWriter:
    """Adds and deletes documents of the index at an address.

    encoder: as `serve` was given it. device: what encodes; by default a GPU where there is one.
    """

    address: str
    encoder: str | None
    device: Device | None = None

    def add(self, documents: list[NewDocument]) -> Written:
        """Add documents, or replace those with their ids, as one new version."""
        rows = ({**one.metadata, "id": one.id, "title": one.title, "text": one.text} for one in documents)
        index = Index.at(self.address)
        with tempfile.TemporaryDirectory() as folder:
            source = as_source(rows, Path(folder), {})
            return _written(add_source(index, source, self.encoder, device=self.device))

    def delete(self, ids: list[str]) -> Written:
        """Delete documents by id, as one new version; ids that are not there count as unchanged."""
        return _written(delete_ids(Index.at(self.address), ids))

    def delete_matching(self, matching: Filter) -> Written:
        """Delete the documents that match a filter, as one new version. Raises InputError when it does not fit."""
        return _written(delete_where(Index.at(self.address), matching))


def _written(change: Change) -> Written:
    return Written(
        version=change.version,
        added=change.added,
        changed=change.changed,
        unchanged=change.unchanged,
        deleted=change.deleted,
        rejected=tuple({"id": row.id, "reason": row.reason} for row in change.rejected),
    )

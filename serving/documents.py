"""Documents of a snapshot by their ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from index_format.filters import Filter, Membership, both
from index_format.selection import matching_rows, refuse_misfit
from serving.snapshot import Snapshot

MAX_IDS = 1_000


@dataclass(frozen=True, slots=True)
class Document:
    """A document as it was given.

    >>> from colonnade import Collection
    >>> animals = Collection("animals-index")
    >>> change = animals.add({"bees": "Bees make honey.", "cats": {"text": "Cats sleep.", "legs": 4}})
    >>> animals.documents(["cats", "dogs"])[0]
    Document(document_id='cats', title=None, text='Cats sleep.', metadata={'legs': 4})
    """

    document_id: str
    title: str | None
    text: str
    metadata: dict[str, object]


def matching_ids(snapshot: Snapshot, matching: Filter | None) -> list[str]:
    """The ids of the live documents that match a filter, all without one. Raises InputError when it does not fit."""
    if matching is not None and snapshot.segments:
        refuse_misfit(matching, snapshot.columns)
    found: list[str] = []
    for segment in snapshot.segments:
        live = ~segment.deleted_rows
        rows = np.flatnonzero(live if matching is None else live & matching_rows(matching, segment))
        found += segment.document_ids.take(rows).to_pylist()
    return found


def fetch_documents(snapshot: Snapshot, ids: Sequence[str], matching: Filter | None = None) -> list[Document]:
    """The live documents with these ids that match a filter, in the order of `ids`; others are left out.

    Raises InputError when the filter does not fit the columns.
    """
    if not ids or not snapshot.segments:
        return []
    wanted = both(Membership(op="in", column="id", values=tuple(ids)), matching)
    assert wanted is not None
    refuse_misfit(wanted, snapshot.columns)
    found: dict[str, Document] = {}
    for segment in snapshot.segments:
        rows = np.flatnonzero(matching_rows(wanted, segment) & ~segment.deleted_rows).tolist()
        for row in segment.read_documents(rows) if rows else []:
            metadata = row.get("metadata") or {}
            assert isinstance(metadata, dict)
            title = None if row["title"] is None else str(row["title"])
            found[str(row["id"])] = Document(str(row["id"]), title, str(row["text"]), metadata)
    return [found[one] for one in dict.fromkeys(ids) if one in found]

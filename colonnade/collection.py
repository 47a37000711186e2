"""An index with its encoder, as Python uses it: what `colonnade` does on the command line, by the same steps.

It needs no server of Prefect and starts no run in its books; where a run should be seen, take the flows.
Heavy imports stay inside the methods.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from colonnade.records import Answer, Change, Match, Records, Settings, Version
from index_format.errors import IndexCorrupt, InputError
from index_format.index import Index

if TYPE_CHECKING:
    from collections.abc import Callable

    import pyarrow as pa

    from colonnade.given import Documents
    from colonnade.questions import Hybrid, Query, Where
    from index_format.compaction import Compacted
    from index_format.garbage import Garbage
    from index_format.manifest import Manifest
    from index_format.selection import Column
    from index_format.verify import Fault
    from serving.device import DeviceChoice
    from serving.documents import Document
    from serving.query import SearchQuery
    from serving.scorer import Recall
    from serving.searcher import Answer as FoundAnswer
    from serving.searcher import Searcher

Done = TypeVar("Done")


class Collection:
    """The documents of an index: added to, searched, and kept. Safe to use from several threads.

    >>> from colonnade import Collection
    >>> animals = Collection("animals-index")
    >>> change = animals.add([
    ...     {"id": "bees", "text": "Bees make honey from nectar.", "legs": 6},
    ...     {"id": "cats", "text": "Cats sleep for most of the day.", "legs": 4},
    ... ])
    >>> animals.search("Who produces something sweet?", k=1)[0].document_id
    'bees'
    >>> animals.search("Who sleeps?", where={"op": ">", "column": "legs", "value": 4})[0].document_id
    'bees'
    >>> animals.delete(["bees"]).version
    2
    >>> [hit.document_id for hit in animals.at(1).search("Who produces something sweet?")]
    ['bees', 'cats']
    """

    def __init__(
        self,
        address: str | os.PathLike[str],
        *,
        encoder: str | None = None,
        settings: Settings | None = None,
        device: DeviceChoice = "auto",
    ) -> None:
        """The index at a directory or `s3://bucket/prefix`; where there is none, the first `add` begins it.

        encoder: "embedded", a folder, s3://, or owner/name on the Hugging Face hub; by default the index's own, and
        "embedded" for a new one. settings: of a new index. device: what encodes and scores.
        """
        self._index = Index.at(address)
        self._encoder = encoder
        self._settings = settings
        self._device = device
        self._pinned: Manifest | None = None
        self._opened: Searcher | None = None
        self._opening = threading.Lock()

    def __repr__(self) -> str:
        at = f" at version {self._pinned.version}" if self._pinned else ""
        return f"<Collection {self.address}{at}>"

    @property
    def address(self) -> str:
        """Where the index is."""
        return self._index.address

    @property
    def version(self) -> int:
        """The version that answers. Raises IndexNotFound."""
        if self._pinned is not None:
            return self._pinned.version
        return self._opened.snapshot.version if self._opened else self._index.current().version

    def add(
        self,
        documents: Documents,
        *,
        id_column: str = "id",
        text_column: str = "text",
        title_column: str = "title",
    ) -> Change:
        """Add documents as one new version; an id that is there gets the new content, equal documents change nothing.

        documents: an iterable of dictionaries, each with an id, a text, perhaps a title, and metadata under any other
        name; a mapping of id to text, or to such a dictionary; anything with columns that Arrow can read (pyarrow,
        pandas, polars, DuckDB); or the path of a source, as `colonnade add` takes.
        Rows that cannot be indexed are set aside, and told in the change.
        """
        from colonnade.changes import add_source
        from colonnade.given import as_source
        from serving.device import choose_encoder_device

        self._refuse_pinned()
        device = choose_encoder_device(self._device)
        columns = {"id_column": id_column, "text_column": text_column, "title_column": title_column}
        with tempfile.TemporaryDirectory() as folder:
            source = as_source(documents, Path(folder), columns)
            return self._refreshed(add_source(self._index, source, self._encoder, self._settings, device))

    def delete(self, ids: Iterable[str] | None = None, *, where: Where = None) -> Change:
        """Delete documents as one new version: those with some ids, or those that match a filter."""
        from colonnade.changes import delete_ids, delete_where
        from colonnade.questions import filter_of, refuse_one_text

        self._refuse_pinned()
        matching = filter_of(where)
        if (ids is None) == (matching is None):
            raise InputError("Name the documents to delete: by ids or by a filter, one of the two.")
        if matching is not None:
            return self._refreshed(delete_where(self._index, matching))
        refuse_one_text("ids", ids)
        return self._refreshed(delete_ids(self._index, map(str, ids or ())))  # as `add` takes numbers

    def search(
        self,
        query: Query,
        k: int = 10,
        *,
        where: Where = None,
        recall: Recall = "balanced",
        offset: int = 0,
        hybrid: Hybrid = None,
        weight: float = 0.5,
    ) -> Answer:
        """The best `k` passages for a text, or for its token vectors float32 [Q, D], from place `offset` on.

        where: a filter over metadata and id, as a dictionary or JSON (docs/filters.md). recall: "exact" scores every
        passage; "fast" and "balanced" stop when few can be missing. hybrid: rank by BM25 too, "rank" by reciprocal
        ranks, "weight" by scores; `weight` is MaxSim's share. Raises InputError or IndexNotFound.
        """
        (answer,) = self.batch_search(
            [query], k, where=where, recall=recall, offset=offset, hybrid=hybrid, weight=weight
        )
        return answer

    def batch_search(
        self,
        queries: Sequence[Query],
        k: int = 10,
        *,
        where: Where = None,
        recall: Recall = "balanced",
        offset: int = 0,
        hybrid: Hybrid = None,
        weight: float = 0.5,
    ) -> list[Answer]:
        """An answer for each of several queries, in their order and all from one version; encoded together."""
        from colonnade.questions import as_answer, as_asked, as_fusion, refuse_one_text

        refuse_one_text("queries", queries)
        fusion = as_fusion(hybrid, weight)
        found = self._answers(queries, lambda query: as_asked(query, k, where, recall, offset, fusion=fusion))
        return [as_answer(one) for one in found]

    def explain(self, query: Query, k: int = 3, *, where: Where = None, recall: Recall = "balanced") -> Records[Match]:
        """Why the best `k` passages are where they are: for each, what every token of the query matched, in order."""
        from colonnade.questions import as_asked, as_matches

        (found,) = self._answers([query], lambda one: as_asked(one, k, where, recall, explain=True))
        return as_matches(found)

    def documents(self, ids: Sequence[str]) -> Records[Document]:
        """The documents with these ids, as they were given, in the order of `ids`; others are left out."""
        from colonnade.questions import refuse_one_text
        from serving.documents import MAX_IDS, Document, fetch_documents

        refuse_one_text("ids", ids)
        snapshot = self._searcher().snapshot
        groups = (ids[start : start + MAX_IDS] for start in range(0, len(ids), MAX_IDS))
        return Records(Document, tuple(one for group in groups for one in fetch_documents(snapshot, group)))

    def columns(self) -> dict[str, Column]:
        """The columns that a filter may name: id, and those of the metadata."""
        return dict(self._searcher().snapshot.columns)

    def matching_ids(self, where: Where) -> list[str]:
        """The ids of the documents that match a filter. Raises InputError when it does not fit the columns."""
        from colonnade.questions import filter_of
        from serving.documents import matching_ids

        return matching_ids(self._searcher().snapshot, filter_of(where))

    def sql(self, statement: str) -> pa.Table:
        """The rows of one SELECT, in DuckDB's SQL, over the tables documents, passages, segments and versions.

        It reads no other file and changes nothing; deleted documents are not there. Raises InputError.
        """
        from colonnade.sql import select

        return select(self._index, self._manifest(), statement)

    def export(self, path: str | os.PathLike[str], *, passages: bool = False) -> int:
        """Write the documents to a .parquet or .jsonl file that `add` reads as it is. Returns the number of rows.

        passages: a row for each passage instead: document_id, number, start, end, text.
        """
        from colonnade.sql import export

        return export(self._index, self._manifest(), Path(path), passages=passages)

    def inspect(self) -> dict[str, Any]:
        """What the version that answers holds: documents, passages, bytes by file, encoder."""
        from colonnade.inspection import describe

        return describe(self._manifest(), self.address)

    def versions(self) -> Records[Version]:
        """The versions that the index retains, newest first."""
        from colonnade.inspection import versions

        told = versions(self._index)
        rows = ({**row, "tags": tuple(filter(None, row["tags"].split(", ")))} for row in told)
        return Records(Version, tuple(Version(**row) for row in rows))

    def at(self, version: int | str) -> Collection:
        """The collection as a retained version has it, by number or tag, to read from. Raises IndexNotFound."""
        from index_format import history

        head = self._index.current()
        number = history.find_version(self._index, head, str(version))
        history.refuse_lost_version(self._index, head, number)
        pinned = Collection(self.address, encoder=self._encoder, device=self._device)
        pinned._pinned = self._index.version(number)
        return pinned

    def refresh(self) -> bool:
        """Answer from the newest version from now on. Returns whether there was a newer one.

        What this collection changes itself it sees at once; this is for what others change.
        """
        self._refuse_pinned()
        with self._opening:
            opened = self._opened
            if opened is None:
                return False
            if self._index.current().encoder.fingerprint != opened.encoder.record.fingerprint:
                self._opened = None  # after a reindex: opened anew, with that encoder
                return True
            newer = opened.refresh()
        if opened.fault is not None:
            raise IndexCorrupt(f"version {opened.fault.version} cannot be opened: {opened.fault.reason}")
        return newer

    def rollback(self, version: int | str) -> int:
        """Publish the documents of an older version, by number or tag, as a new one. Returns the current version."""
        from index_format import history
        from index_format.change import Origin

        def change(base: Manifest) -> Manifest | None:
            number = history.find_version(self._index, base, str(version))
            return history.rollback(self._index, base, number, Origin("rollback"))

        return self._changed(change)

    def tag(self, name: str, version: int | None = None, *, remove: bool = False) -> int:
        """Give a version a name, the current one by default, or forget the name. Returns the current version.

        A version is kept for as long as it has a name.
        """
        from index_format import history
        from index_format.change import Origin

        if remove:
            return self._changed(lambda base: history.untag(self._index, base, name, Origin("untag")))
        return self._changed(lambda base: history.tag(self._index, base, name, version or base.version, Origin("tag")))

    def compact(self, *, alike: int = 8, deleted_share: float = 0.25) -> Compacted:
        """Join small segments, `alike` of like size into one, and rewrite those that lost too many documents."""
        from index_format.compaction import CompactionPolicy, compact_index

        self._refuse_pinned()
        return self._refreshed(compact_index(self._index, CompactionPolicy(alike=alike, deleted_share=deleted_share)))

    def collect_garbage(self, *, keep_versions: int = 10, keep_days: float = 7.0, delete: bool = False) -> Garbage:
        """Find old versions and files that nothing needs any more, and remove them if told to `delete`."""
        from index_format.garbage import collect_garbage, find_garbage
        from index_format.history import Retention

        self._refuse_pinned()
        retention, now = Retention(keep_versions, keep_days), time.time_ns() // 1_000_000
        if delete:
            return self._refreshed(collect_garbage(self._index, retention, now))
        return find_garbage(self._index, self._index.current(), retention, now)

    def verify(self, *, all_versions: bool = False) -> Records[Fault]:
        """Read all of the version that answers, or of every one, and check every rule of the format: the faults."""
        from index_format.verify import Fault, verify, wanted_versions

        wanted = wanted_versions(self._index.store, self._manifest().version, all_versions=all_versions)
        return Records(Fault, tuple(verify(self._index.store, wanted)))

    def _manifest(self) -> Manifest:
        if self._pinned is not None:
            return self._pinned
        return self._opened.snapshot.manifest if self._opened else self._index.current()

    def _searcher(self) -> Searcher:
        """Opened when first asked for."""
        from encoding.encoder import load_encoder_of
        from serving.device import choose_device, choose_encoder_device
        from serving.searcher import Searcher

        with self._opening:
            if self._opened is None:
                scores_on, encodes_on = choose_device(self._device), choose_encoder_device(self._device)
                encoder = load_encoder_of((self._pinned or self._index.current()).encoder, self._encoder, encodes_on)
                self._opened = Searcher(self._index, encoder, scores_on, self._pinned)
            return self._opened

    def _answers(self, queries: Sequence[Query], ask: Callable[[Query], SearchQuery]) -> list[FoundAnswer]:
        from colonnade.questions import refuse_unfit
        from serving.searcher import answer_of

        asked = [ask(query) for query in queries]
        searcher = self._searcher()
        snapshot = searcher.snapshot
        encoded = iter(searcher.encode([one.text for one in asked if one.text is not None]) if asked else [])
        vectors = [next(encoded) if one.vectors is None else one.vectors for one in asked]
        for one in vectors:
            refuse_unfit(one, snapshot.manifest.encoder.dim)
        made = searcher.answers(list(zip(asked, vectors, strict=True)), snapshot)
        outcomes = dict(pair for together in made for pair in together)
        return [answer_of(outcomes[place]) for place in range(len(asked))]

    def _changed(self, change: Callable[[Manifest], Manifest | None]) -> int:
        self._refuse_pinned()
        made = self._index.change(change)
        return self._refreshed(made or self._index.current()).version

    def _refreshed(self, done: Done) -> Done:
        """What a change returned, once searches see it."""
        self.refresh()
        return done

    def _refuse_pinned(self) -> None:
        if self._pinned is not None:
            raise InputError(f"{self!r} is for reading: change the collection that it was taken from.")

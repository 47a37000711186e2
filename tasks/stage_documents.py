"""The documents of a source that an index does not hold yet, checked and cut into shards.

A shard is a Parquet object under `staging/`: workers share nothing but the store. Documents that the index
holds with equal content are left out here, so that a flow that runs twice encodes nothing the second time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field

import msgspec
import pyarrow as pa

from index_format import keys, schema
from index_format.change import live_documents
from index_format.errors import StorageError
from index_format.files import write_object
from index_format.index import Index
from index_format.manifest import FileRef, Manifest
from index_format.reports import write_report
from tasks import progress
from tasks.prefect_task import as_task
from tasks.rows import Rejected, Rows, Source, python_rows
from tasks.sources import read_rows

SHARD_DOCUMENTS = 1000
SHARD_CHARACTERS = 2_000_000
MAX_ID_CHARACTERS = 512
_KEPT_REASONS = 1_000_000  # a report is for people; past this the count alone is kept


class Shard(msgspec.Struct, frozen=True, kw_only=True):
    """Some staged documents, by reference. `content` is a hash of their ids and content hashes, in order."""

    file: FileRef
    content: str
    documents: int
    characters: int


class StagedDocuments(msgspec.Struct, frozen=True, kw_only=True):
    """What a source holds, seen from an index.

    missing: ids that the index holds and no row of the source has, not even one that was set aside.
    unnamed: rows that were set aside without an id or with a blank one, any of which may have been one of those.
    """

    shards: list[Shard]
    seen: int
    unchanged: int
    rejected: int
    rejected_file: FileRef | None
    missing: list[str]
    unnamed: int


@dataclass
class _Staging:
    """Counts, and the shard that is being filled, while a source streams by."""

    known: dict[str, bytes]
    seen: int = 0
    unchanged: int = 0
    rejected_count: int = 0
    rejected: list[Rejected] = field(default_factory=list)
    unnamed: int = 0
    seen_ids: set[bytes] = field(default_factory=set)
    set_aside_ids: set[bytes] = field(default_factory=set)
    pending: list[pa.Table] = field(default_factory=list)
    documents: int = 0
    characters: int = 0

    @property
    def full(self) -> bool:
        return self.documents >= SHARD_DOCUMENTS or self.characters >= SHARD_CHARACTERS

    def reject(self, row: Rejected) -> None:
        self.seen += 1
        self.rejected_count += 1
        if row.id is None or not row.id.strip():
            self.unnamed += 1
        else:
            self.set_aside_ids.add(id_digest(row.id))
        if len(self.rejected) < _KEPT_REASONS:
            self.rejected.append(row)

    def missing(self) -> list[str]:
        """Ids that the index holds and that did not come by."""
        came = self.seen_ids | self.set_aside_ids
        return [one for one in self.known if id_digest(one) not in came]

    def take(self) -> pa.Table:
        """The shard as it stands, leaving an empty one."""
        table = pa.concat_tables(self.pending, promote_options="permissive")
        self.pending, self.documents, self.characters = [], 0, 0
        return table


def stage_documents(source: Source, address: str, run_id: str, base: Manifest | None) -> StagedDocuments:
    """Read a source, set bad rows aside with their reasons, and stage what is new or changed against `base`."""
    index = Index.at(address)
    known = {key: place.content_hash for key, place in live_documents(index.segments(base)).items()} if base else {}
    staging = _Staging(known)
    shards = [write_shard(index, run_id, at, table) for at, table in enumerate(_shard_tables(source, staging))]
    rejected = map(asdict, staging.rejected)
    rejected_file = write_report(index.store, run_id, rejected) if staging.rejected else None
    progress.report("load", total=staging.seen)
    return StagedDocuments(
        shards=shards,
        seen=staging.seen,
        unchanged=staging.unchanged,
        rejected=staging.rejected_count,
        rejected_file=rejected_file,
        missing=staging.missing(),
        unnamed=staging.unnamed,
    )


stage_documents_task = as_task(stage_documents, "stage documents")


def remove_staged(address: str, run_id: str) -> None:
    """Remove the shards that a run staged; its segments and receipts stay. What a store keeps is garbage, in time."""
    store = Index.at(address).store
    with suppress(StorageError):
        for key in store.list(f"{keys.STAGING}{run_id}/"):
            store.delete(key)


def content_hash(title: str | None, text: str, metadata: dict[str, object] | None) -> bytes:
    """SHA-256 of all that a document says; equal for equal content, whatever file it came from (SPEC §4.2)."""
    said = [title, text, _without_nulls(metadata or {})]
    return hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode("utf-8", "surrogatepass")).digest()


def _without_nulls(value: object) -> object:
    """A value without the fields that are null, at any depth: they say the same as none. Lists keep their nulls."""
    if isinstance(value, dict):
        return {name: _without_nulls(one) for name, one in value.items() if one is not None}
    return [_without_nulls(one) for one in value] if isinstance(value, list) else value


def _shard_tables(source: Source, staging: _Staging) -> Iterator[pa.Table]:
    for rows in read_rows(source):
        if isinstance(rows, Rejected):
            staging.reject(rows)
            continue
        yield from _fill(source, rows, staging)
        progress.report("load", advance=rows.table.num_rows)
    if staging.pending:
        yield staging.take()


def _fill(source: Source, rows: Rows, staging: _Staging) -> Iterator[pa.Table]:
    """Add the good rows that are new to the open shard; yields every shard that fills up."""
    places: list[int] = []
    hashes: list[bytes] = []
    for place, (row, out_of_range) in enumerate(python_rows(rows.table)):
        reason = out_of_range or _fault(row, staging.seen_ids)
        if reason:
            staging.reject(Rejected(source.location, int(rows.numbers[place]), row["id"], reason))
            continue
        staging.seen += 1
        digest = content_hash(row["title"], row["text"], row.get(schema.METADATA))
        if staging.known.get(row["id"]) == digest:
            staging.unchanged += 1
            continue
        places.append(place)
        hashes.append(digest)
        staging.documents += 1
        staging.characters += len(row["text"])
        if staging.full:
            staging.pending.append(documents_table(rows.table.take(places), hashes))
            yield staging.take()
            places, hashes = [], []
    if places:
        staging.pending.append(documents_table(rows.table.take(places), hashes))


def _fault(row: dict[str, str | None], seen_ids: set[bytes]) -> str | None:
    """Why a row cannot be indexed, or None; remembers its id."""
    document_id, text = row["id"], row["text"]
    if document_id is None or not document_id.strip():
        return "the id is missing"
    if len(document_id) > MAX_ID_CHARACTERS:
        return f"the id has {len(document_id)} characters, at most {MAX_ID_CHARACTERS} are allowed"
    if text is None or not text.strip():
        return "the text is empty"
    digest = id_digest(document_id)
    if digest in seen_ids:
        return "the id came before in this source; the first row with it is indexed"
    seen_ids.add(digest)
    return None


def id_digest(document_id: str) -> bytes:
    """What is kept of an id to know it again: 16 bytes."""
    return hashlib.blake2b(document_id.encode(), digest_size=16).digest()


def documents_table(table: pa.Table, hashes: list[bytes]) -> pa.Table:
    """Rows of a source with their content hashes, in the columns of documents.parquet."""
    metadata = table.schema.field(schema.METADATA).type if schema.METADATA in table.schema.names else None
    columns = {**{name: table[name] for name in table.schema.names}, "content_hash": pa.array(hashes, pa.binary(32))}
    target = schema.documents_schema(metadata)
    return pa.table([columns[name] for name in target.names], schema=target)


def write_shard(index: Index, run_id: str, number: int, table: pa.Table) -> Shard:
    said = hashlib.sha256()
    for document_id, digest in zip(table["id"].to_pylist(), table["content_hash"].to_pylist(), strict=True):
        said.update(json.dumps(document_id).encode() + digest)
    return Shard(
        file=write_object(index.store, keys.staged_shard(run_id, number), schema.write_parquet(table)),
        content=said.hexdigest(),
        documents=table.num_rows,
        characters=sum(map(len, table["text"].to_pylist())),
    )

"""Documents added and deleted in this process, by the steps of the flows, without a run in Prefect's books."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict

from colonnade.records import Change, Records, Settings
from encoding.checkpoint import EMBEDDED, Checkpoint, open_checkpoint
from index_format import keys
from index_format.change import Addition, Origin, refuse_other_encoder
from index_format.doctor import refuse_unsafe_store
from index_format.errors import CodebookChanged, CommitConflict, NothingToIndex
from index_format.filters import Filter
from index_format.index import Index
from index_format.manifest import ChunkingRecord, Manifest
from index_format.reports import read_report
from index_format.segment import EncodedSegment
from serving.device import Device
from tasks.assign_centroids import assign_centroids
from tasks.device import gpu_kept
from tasks.encode_shard import Recipe, calibrate_codec, encode_shard, remove_receipts
from tasks.publish import delete_documents, delete_matching, publish
from tasks.rows import Rejected, Source
from tasks.settings import refuse_other_settings, wanted_chunking
from tasks.stage_documents import Shard, StagedDocuments, remove_staged, stage_documents
from tasks.train_codebook import train_codebook

_CODEBOOKS = 3  # how often a codebook may be replaced under one change before it gives up


def add_source(
    index: Index,
    source: Source,
    encoder: str | None = None,
    settings: Settings | None = None,
    device: Device | None = None,
) -> Change:
    """Bring the documents of a source into an index, which is begun where there is none, as one new version.

    encoder: where the index's own is now, or the one to begin with. settings: of a new index.
    device: what encodes; by default a GPU where there is one.
    Raises InputError, NothingToIndex for a new index without documents, and what the steps raise.
    """
    index.refuse_foreign_directory()
    base, run_id = index.head(), keys.new_id()
    checkpoint = open_checkpoint(encoder or (base.encoder.name if base else EMBEDDED))
    if base is not None:
        refuse_other_encoder(base, checkpoint.record, where=index.address)
        refuse_other_settings(base, where="settings", **(asdict(settings) if settings else {}))
    else:
        _new_chunking(checkpoint, settings or Settings())  # refuses before a document is read
    try:
        staged = stage_documents(source, index.address, run_id, base)
        with gpu_kept():
            settings = settings or Settings()
            manifest = _add(index, base, checkpoint, settings, staged, device) if staged.shards else None
    finally:
        remove_staged(index.address, run_id)
    rows = read_report(index.files, staged.rejected_file)
    if base is None and manifest is None:
        reasons = "; ".join(str(row["reason"]) for row in rows[:3]) or "there are none"
        raise NothingToIndex(f"No document to index: {staged.rejected} of {staged.seen} set aside: {reasons}.", rows)
    return Change(
        version=(manifest or index.current()).version,
        added=manifest.commit.added if manifest else 0,
        changed=manifest.commit.changed if manifest else 0,
        unchanged=staged.unchanged,
        deleted=0,
        rejected=Records(Rejected, tuple(Rejected(**row) for row in rows)),
    )


def delete_ids(index: Index, ids: Iterable[str]) -> Change:
    """Delete documents by id, as one new version; ids that are not there count as unchanged."""
    wanted = sorted(set(ids))
    manifest = delete_documents(index.address, wanted, Origin("delete"))
    return _deleted(index, manifest, len(wanted))


def delete_where(index: Index, matching: Filter) -> Change:
    """Delete the documents that match a filter, as one new version."""
    return _deleted(index, delete_matching(index.address, matching, Origin("delete")), None)


def _deleted(index: Index, manifest: Manifest | None, wanted: int | None) -> Change:
    deleted = manifest.commit.deleted if manifest else 0
    return Change(
        version=(manifest or index.current()).version,
        added=0,
        changed=0,
        unchanged=0 if wanted is None else wanted - deleted,
        deleted=deleted,
        rejected=Records(Rejected, ()),
    )


def _add(
    index: Index,
    base: Manifest | None,
    checkpoint: Checkpoint,
    settings: Settings,
    staged: StagedDocuments,
    device: Device | None,
) -> Manifest | None:
    """Encode what was staged and publish it."""
    if base is None:
        refuse_unsafe_store(index.store)
        recipe = _new_recipe(index, checkpoint, settings, staged.shards, device)
    else:
        recipe = Recipe.of(index.address, base, checkpoint.record)
    encoded = [encode_shard(shard, recipe, device) for shard in staged.shards]
    origin = Origin("add" if base else "build", rejected=staged.rejected, rejected_file=staged.rejected_file)
    manifest = _publish(index, base, recipe, encoded, origin)
    remove_receipts(recipe, staged.shards)
    return manifest


def _publish(
    index: Index, base: Manifest | None, recipe: Recipe, encoded: Sequence[EncodedSegment], origin: Origin
) -> Manifest | None:
    """Give segments their centroids and commit them; again when the index got another codebook meanwhile."""
    codec, dim = recipe.codec, recipe.encoder.dim
    codebook = base.codebook if base else train_codebook(index.address, encoded, codec, dim)
    for _ in range(_CODEBOOKS):
        records = [assign_centroids(one, index.address, codebook, codec, dim) for one in encoded]
        with suppress(CodebookChanged):
            addition = Addition(recipe.encoder, codec, recipe.chunking, codebook, records)
            return publish(index.address, addition, origin)
        codebook = index.current().codebook  # the codes stay good
    raise CommitConflict(f"{index.address}: its codebook was replaced {_CODEBOOKS} times. Run again later.")


def _new_recipe(
    index: Index, checkpoint: Checkpoint, settings: Settings, shards: Sequence[Shard], device: Device | None
) -> Recipe:
    chunking = _new_chunking(checkpoint, settings)
    codec = calibrate_codec(index.address, shards, checkpoint.name, chunking, settings.bits, device=device)
    return Recipe(
        address=index.address,
        encoder_name=checkpoint.name,
        encoder=checkpoint.record,
        codec=codec,
        chunking=chunking,
    )


def _new_chunking(checkpoint: Checkpoint, settings: Settings) -> ChunkingRecord:
    return wanted_chunking(checkpoint, settings.passage_tokens, settings.overlap_tokens, settings.pool_factor)

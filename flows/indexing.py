"""Documents to a published version of an index: the recipe that building, adding and syncing share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

from encoding.checkpoint import EMBEDDED, Checkpoint, open_checkpoint
from flows.parameters import BuildParameters
from flows.spread import encode_shards
from flows.summary import Stopwatch, Summary
from index_format import keys
from index_format.change import Addition, Origin, refuse_other_encoder
from index_format.doctor import refuse_unsafe_store
from index_format.errors import CodebookChanged, CommitConflict, NothingToIndex
from index_format.index import Index
from index_format.manifest import ChunkingRecord, CodebookRecord, Manifest, SegmentRecord
from index_format.reports import read_report
from index_format.segment import EncodedSegment
from tasks import progress
from tasks.assign_centroids import assign_centroids_task
from tasks.encode_shard import Recipe, calibrate_codec_task, remove_receipts
from tasks.publish import delete_documents_task, publish_task
from tasks.settings import DEFAULT_BITS, refuse_other_settings, wanted_chunking
from tasks.stage_documents import Shard, StagedDocuments, remove_staged, stage_documents_task
from tasks.train_codebook import train_codebook_task

_CODEBOOKS = 3  # how often a codebook may be replaced under one run before it gives up

ChooseRemoved = Callable[[StagedDocuments, Manifest | None], list[str]]
"""Which documents go, seen from what the source holds and what the index holds."""


def keep_all(_staged: StagedDocuments, _base: Manifest | None) -> list[str]:
    """Remove none: the source adds to the index."""
    return []


def index_documents(
    index: Index,
    base: Manifest | None,
    parameters: BuildParameters,
    operation: str,
    choose_removed: ChooseRemoved = keep_all,
) -> Summary:
    """Bring the documents of a source into an index, take others out of it, and publish that as one version."""
    checkpoint = open_checkpoint(parameters.encoder or (base.encoder.name if base else EMBEDDED))
    if base is not None:
        refuse_other_encoder(base, checkpoint.record, where=index.address)
        refuse_other_settings(base, where=index.address, **parameters.settings)
    chunking = base.chunking if base else wanted_chunking(checkpoint, *parameters.cut)
    watch, run_id = Stopwatch(), keys.new_id()
    try:
        with watch.stage("load"):
            staged = stage_documents_task(parameters.source, index.address, run_id, base)
        removed = choose_removed(staged, base)
        origin = _origin(operation, staged, parameters)
        if not staged.shards:
            manifest = delete_documents_task(index.address, removed, origin) if removed else None
            return _without_new_documents(index, base, manifest, staged, watch)
        if base is None:
            refuse_unsafe_store(index.store)  # before hours of encoding; the commit looks again
        with watch.stage("encode"):
            recipe = _recipe(index, base, checkpoint, chunking, parameters.bits or DEFAULT_BITS, staged.shards)
            segments = encode_shards(staged.shards, recipe)
        manifest, records = _publish(index, base, recipe, segments, origin, removed, watch)
        remove_receipts(recipe, staged.shards)
        return summarize(index, manifest, staged, records, watch)
    finally:
        remove_staged(index.address, run_id)


def _publish(
    index: Index,
    base: Manifest | None,
    recipe: Recipe,
    segments: Sequence[EncodedSegment],
    origin: Origin,
    removed: Sequence[str],
    watch: Stopwatch,
) -> tuple[Manifest | None, list[SegmentRecord]]:
    """Give encoded segments their centroids and commit them; again when the index got another codebook meanwhile."""
    with watch.stage("codebook"):
        settings = (recipe.codec, recipe.encoder.dim)
        codebook = base.codebook if base else train_codebook_task(index.address, segments, *settings)
    for _ in range(_CODEBOOKS):
        with watch.stage("centroids"):
            records = assign_all(segments, recipe, codebook)
        with watch.stage("publish"), suppress(CodebookChanged):
            addition = Addition(recipe.encoder, recipe.codec, recipe.chunking, codebook, records)
            return publish_task(index.address, addition, origin, removed), records
        codebook = index.current().codebook  # the codes stay good: only the centroids are assigned again
    raise CommitConflict(f"{index.address}: its codebook was replaced {_CODEBOOKS} times. Run again later.")


def assign_all(
    segments: Sequence[EncodedSegment | SegmentRecord], recipe: Recipe, codebook: CodebookRecord
) -> list[SegmentRecord]:
    """The records of segments with their centroids written."""
    progress.report("centroids", total=sum(segment.tokens for segment in segments))
    settings = (recipe.address, codebook, recipe.codec, recipe.encoder.dim)
    return [assign_centroids_task(segment, *settings) for segment in segments]


def _recipe(
    index: Index,
    base: Manifest | None,
    checkpoint: Checkpoint,
    chunking: ChunkingRecord,
    bits: int,
    shards: Sequence[Shard],
) -> Recipe:
    """How this run encodes: as the index was begun, or with a codec of its own where there is none."""
    if base is not None:
        return Recipe.of(index.address, base, checkpoint.record)
    return Recipe(
        address=index.address,
        encoder_name=checkpoint.name,
        encoder=checkpoint.record,
        codec=calibrate_codec_task(index.address, shards, checkpoint.name, chunking, bits),
        chunking=chunking,
    )


def _origin(operation: str, staged: StagedDocuments, parameters: BuildParameters) -> Origin:
    return Origin(
        operation=operation,
        rejected=staged.rejected,
        rejected_file=staged.rejected_file,
        source_fingerprint=parameters.source_fingerprint,
    )


def _without_new_documents(
    index: Index, base: Manifest | None, manifest: Manifest | None, staged: StagedDocuments, watch: Stopwatch
) -> Summary:
    if base is None:
        reasons = read_report(index.files, staged.rejected_file)
        first = "; ".join(str(row["reason"]) for row in reasons[:3]) or "there are none"
        raise NothingToIndex(
            f"No document to index: {staged.rejected} of {staged.seen} rows set aside: {first}.", reasons
        )
    return summarize(index, manifest, staged, [], watch)


def summarize(
    index: Index,
    manifest: Manifest | None,
    staged: StagedDocuments,
    records: Sequence[SegmentRecord],
    watch: Stopwatch,
) -> Summary:
    """What a run did; `manifest` is None when it published nothing."""
    return Summary(
        index=index.address,
        version=(manifest or index.current()).version,
        published=manifest is not None,
        seen=staged.seen,
        added=manifest.commit.added if manifest else 0,
        changed=manifest.commit.changed if manifest else 0,
        deleted=manifest.commit.deleted if manifest else 0,
        unchanged=staged.unchanged,
        rejected=staged.rejected,
        rejected_file=staged.rejected_file,
        passages=sum(record.passages for record in records),
        tokens=sum(record.tokens for record in records),
        bytes=sum(file.size for record in records for file in record.files()),
        seconds=watch.seconds,
    )

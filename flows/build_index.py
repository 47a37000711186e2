"""Documents to a published version of an index: the recipe that building and adding share."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from prefect import flow, unmapped
from prefect.futures import PrefectFuture
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from encoding.checkpoint import EMBEDDED, Checkpoint, open_checkpoint
from flows.parameters import AddParameters, BuildParameters
from flows.summary import Stopwatch, Summary
from index_format import keys
from index_format.change import Addition, Origin, refuse_other_encoder
from index_format.doctor import refuse_unsafe_store
from index_format.errors import CodebookChanged, CommitConflict, InputError, NothingToIndex
from index_format.index import Index
from index_format.manifest import ChunkingRecord, EncoderRecord, Manifest, SegmentRecord
from index_format.reports import read_report
from tasks import progress
from tasks.assign_centroids import assign_centroids_task
from tasks.encode_shard import Recipe, calibrate_codec_task, encode_shard_task, remove_receipts
from tasks.publish import publish_task
from tasks.stage_documents import Shard, StagedDocuments, remove_staged, stage_documents_task
from tasks.train_codebook import train_codebook_task

# One worker thread: an encoder uses all cores, or a whole GPU, by itself.
_RUNNER: TaskRunner[PrefectFuture[Any]] = ThreadPoolTaskRunner(max_workers=1)  # type: ignore[assignment]


_CODEBOOKS = 3  # how often a codebook may be replaced under one run before it gives up


@flow(name="build-index", task_runner=_RUNNER)
def build_index(parameters: BuildParameters) -> Summary:
    """Make an index from a source, or bring the source's documents into the index that is there."""
    index = Index.at(parameters.index)
    index.refuse_foreign_directory()
    return _index_documents(index, index.head(), parameters)


@flow(name="add-documents", task_runner=_RUNNER)
def add_documents(parameters: AddParameters) -> Summary:
    """Add a source's documents to an index that exists; an id that it holds gets the new content."""
    index = Index.at(parameters.index)
    return _index_documents(index, index.current(), BuildParameters(**dict(parameters)))


def _index_documents(index: Index, base: Manifest | None, parameters: BuildParameters) -> Summary:
    checkpoint = open_checkpoint(parameters.encoder or (base.encoder.name if base else EMBEDDED))
    if base is not None:
        refuse_other_encoder(base, _encoder_record(checkpoint), where=index.address)
    watch, run_id = Stopwatch(), keys.new_id()
    try:
        with watch.stage("load"):
            staged = stage_documents_task(parameters.source, index.address, run_id, base)
        if not staged.shards:
            return _nothing_new(index, base, staged, watch)
        if base is None:
            refuse_unsafe_store(index.store)  # before hours of encoding; the commit looks again
        with watch.stage("encode"):
            recipe = _recipe(index, base, checkpoint, parameters, staged.shards)
            segments = encode_shard_task.map(staged.shards, unmapped(recipe)).result()
        with watch.stage("codebook"):
            settings = (recipe.codec, recipe.encoder.dim)
            codebook = base.codebook if base else train_codebook_task(index.address, segments, *settings)
        origin = _origin(base, staged, parameters)
        for _ in range(_CODEBOOKS):
            with watch.stage("centroids"):
                progress.report("centroids", total=sum(segment.tokens for segment in segments))
                shared = [unmapped(one) for one in (index.address, codebook, *settings)]
                records = assign_centroids_task.map(segments, *shared).result()
            with watch.stage("publish"), suppress(CodebookChanged):
                addition = Addition(recipe.encoder, recipe.codec, recipe.chunking, codebook, records)
                manifest = publish_task(index.address, addition, origin)
                break
            codebook = index.current().codebook  # the codes stay good: only the centroids are assigned again
        else:
            raise CommitConflict(f"{index.address}: its codebook was replaced {_CODEBOOKS} times. Run again later.")
        remove_receipts(recipe, staged.shards)
        return _summary(index, manifest, staged, records, watch)
    finally:
        remove_staged(index.address, run_id)


def _recipe(
    index: Index, base: Manifest | None, checkpoint: Checkpoint, parameters: BuildParameters, shards: Sequence[Shard]
) -> Recipe:
    """How this run encodes: as the index was begun, or as the parameters say for a new one."""
    progress.report("encode", total=sum(shard.characters for shard in shards))
    passage_tokens = parameters.passage_tokens or checkpoint.max_tokens
    if passage_tokens > checkpoint.max_tokens:
        raise InputError(
            f"passage_tokens: {checkpoint.name} takes {checkpoint.max_tokens} at most, got {passage_tokens}."
        )
    chunking = ChunkingRecord(
        passage_tokens=passage_tokens, overlap_tokens=parameters.overlap_tokens, pool_factor=parameters.pool_factor
    )
    if base is not None:
        codec, chunking = base.codec, base.chunking
    else:
        codec = calibrate_codec_task(index.address, shards[0], checkpoint.name, chunking, parameters.bits)
    return Recipe(
        address=index.address,
        encoder_name=checkpoint.name,
        encoder=_encoder_record(checkpoint),
        codec=codec,
        chunking=chunking,
        horizon=base.horizon if base else 0,
    )


def _encoder_record(checkpoint: Checkpoint) -> EncoderRecord:
    return EncoderRecord(name=checkpoint.name, fingerprint=checkpoint.fingerprint, dim=checkpoint.dim)


def _origin(base: Manifest | None, staged: StagedDocuments, parameters: BuildParameters) -> Origin:
    return Origin(
        operation="add" if base else "build",
        rejected=staged.rejected,
        rejected_file=staged.rejected_file,
        source_fingerprint=parameters.source_fingerprint,
    )


def _nothing_new(index: Index, base: Manifest | None, staged: StagedDocuments, watch: Stopwatch) -> Summary:
    if base is None:
        reasons = read_report(index.files, staged.rejected_file)
        first = "; ".join(str(row["reason"]) for row in reasons[:3])
        raise NothingToIndex(
            f"No document to index: {staged.rejected} of {staged.seen} rows set aside: {first}.", reasons
        )
    return _summary(index, None, staged, [], watch)


def _summary(
    index: Index,
    manifest: Manifest | None,
    staged: StagedDocuments,
    records: Sequence[SegmentRecord],
    watch: Stopwatch,
) -> Summary:
    summary = Summary(
        index=index.address,
        version=(manifest or index.current()).version,
        published=manifest is not None,
        seen=staged.seen,
        added=manifest.commit.added if manifest else 0,
        changed=manifest.commit.changed if manifest else 0,
        unchanged=staged.unchanged,
        rejected=staged.rejected,
        rejected_file=staged.rejected_file,
        passages=sum(record.passages for record in records),
        tokens=sum(record.tokens for record in records),
        bytes=sum(file.size for record in records for file in record.files()),
        seconds=watch.seconds,
    )
    summary.show_in_prefect()
    return summary

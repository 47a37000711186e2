"""An index made anew beside the one that is served: the two recipes of a reindex."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from encoding.checkpoint import Checkpoint, open_checkpoint
from flows.indexing import assign_all
from flows.parameters import ReindexParameters
from flows.spread import encode_shards
from flows.summary import Stopwatch, Summary
from index_format import keys, reindex
from index_format.change import Addition, Origin, commit_record, next_version
from index_format.errors import CommitConflict, InputError, NotCaughtUp
from index_format.index import Index
from index_format.manifest import ChunkingRecord, CodebookRecord, Manifest, SegmentRecord
from index_format.segment import EncodedSegment
from tasks.encode_shard import Recipe, calibrate_codec_task, remove_receipts
from tasks.publish import publish_codebook_task, publish_vectors_task
from tasks.restage import restage_documents_task
from tasks.settings import wanted_chunking
from tasks.stage_documents import Shard, remove_staged
from tasks.train_codebook import train_codebook_task

_CATCH_UPS = 20  # each encodes what came during the one before, so they shorten quickly
_ORIGIN = Origin("reindex")

Gate = Callable[[Manifest], None]
"""Looks at a version before it is published, and raises WorseAnswers when it must not be."""


def keeps_vectors(base: Manifest, parameters: ReindexParameters) -> bool:
    """Whether all that is asked for is as it is, so that the codebook alone is made anew."""
    checkpoint = open_checkpoint(parameters.encoder) if parameters.encoder else None
    same_encoder = checkpoint is None or checkpoint.fingerprint == base.encoder.fingerprint
    asked = (parameters.bits, parameters.passage_tokens, parameters.overlap_tokens, parameters.pool_factor)
    cut = base.chunking
    there = (base.codec.bits, cut.passage_tokens, cut.overlap_tokens, cut.pool_factor)
    return same_encoder and all(wanted in (None, given) for wanted, given in zip(asked, there, strict=True))


def renew_codebook(index: Index, base: Manifest, gate: Gate) -> Summary:
    """Train a codebook on all vectors, give every segment its centroids, and publish that. No vector changes."""
    if not base.segments:
        raise InputError(f"{index.address} holds no documents to train a codebook on.")
    watch, dim = Stopwatch(), base.encoder.dim
    with watch.stage("codebook"):
        codebook = train_codebook_task(index.address, base.segments, base.codec, dim)
    with watch.stage("centroids"):
        records = assign_all(base.segments, Recipe.of(index.address, base, base.encoder), codebook)
    with watch.stage("evaluate"):
        gate(next_version(base, commit_record(_ORIGIN), records, codebook=codebook))
    with watch.stage("publish"):
        assigned = {record.id: record.centroids_file for record in records}
        manifest = publish_codebook_task(index.address, base.codebook.id, codebook, assigned, _ORIGIN)
    return _summary(index, manifest, records, watch)


def renew_vectors(index: Index, base: Manifest, parameters: ReindexParameters, gate: Gate) -> Summary:
    """Encode all documents from the texts that the index holds, catch up with what came meanwhile, and cut over."""
    watch, run_id = Stopwatch(), keys.new_id()
    checkpoint = open_checkpoint(parameters.encoder or base.encoder.name)
    chunking = _new_chunking(base, checkpoint, parameters)
    shards: list[Shard] = []
    segments: list[EncodedSegment] = []
    records: list[SegmentRecord] = []
    codebook: CodebookRecord | None = None
    recipe: Recipe | None = None
    head = base
    try:
        for _ in range(_CATCH_UPS):
            with watch.stage("load"):
                fresh = restage_documents_task(index.address, run_id, head, segments, len(shards))
            shards += fresh
            with watch.stage("encode"):
                bits = parameters.bits or base.codec.bits
                recipe = recipe or _new_recipe(index, base, checkpoint, chunking, bits, fresh)
                encoded = encode_shards(fresh, recipe)
            segments += encoded
            with watch.stage("codebook"):
                codebook = codebook or train_codebook_task(index.address, segments, recipe.codec, recipe.encoder.dim)
            with watch.stage("centroids"):
                records += assign_all(encoded, recipe, codebook)
            made = Addition(recipe.encoder, recipe.codec, recipe.chunking, codebook, list(records))
            if head is base:
                with watch.stage("evaluate"):
                    gate(reindex.replace_vectors(index, base, base, made, _ORIGIN))
            with watch.stage("publish"), suppress(NotCaughtUp):
                manifest = publish_vectors_task(index.address, base, made, _ORIGIN)
                remove_receipts(recipe, shards)
                return _summary(index, manifest, records, watch)
            head = index.current()
    finally:
        remove_staged(index.address, run_id)
    raise CommitConflict(f"{index.address}: documents came faster than they could be encoded anew. Run again later.")


def _new_chunking(base: Manifest, checkpoint: Checkpoint, parameters: ReindexParameters) -> ChunkingRecord:
    """As the index is cut, but for what the parameters name. A new encoder takes passages as long as it can."""
    cut = base.chunking
    as_it_is = cut.passage_tokens if checkpoint.fingerprint == base.encoder.fingerprint else None
    overlap = cut.overlap_tokens if parameters.overlap_tokens is None else parameters.overlap_tokens
    pool = parameters.pool_factor or cut.pool_factor
    return wanted_chunking(checkpoint, parameters.passage_tokens or as_it_is, overlap, pool)


def _new_recipe(
    index: Index, base: Manifest, checkpoint: Checkpoint, chunking: ChunkingRecord, bits: int, shards: list[Shard]
) -> Recipe:
    if not shards:
        raise InputError(f"{index.address} holds no documents to encode anew.")
    return Recipe(
        address=index.address,
        encoder_name=checkpoint.name,
        encoder=checkpoint.record,
        codec=calibrate_codec_task(index.address, shards, checkpoint.name, chunking, bits, base.horizon),
        chunking=chunking,
        horizon=base.horizon,
    )


def _summary(index: Index, manifest: Manifest, records: list[SegmentRecord], watch: Stopwatch) -> Summary:
    return Summary(
        index=index.address,
        version=manifest.version,
        published=True,
        seen=manifest.documents,
        passages=sum(record.passages for record in records),
        tokens=sum(record.tokens for record in records),
        bytes=sum(file.size for record in records for file in record.files()),
        seconds=watch.seconds,
    )

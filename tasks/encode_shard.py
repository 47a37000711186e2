"""One shard of documents to one segment: chunk, encode, compress, write.

A finished shard leaves a receipt under a hash of all that its result depends on. A later run that meets the
same work finds the receipt, checks the files that it names, and does nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Sequence
from itertools import chain

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from encoding.checkpoint import Checkpoint, open_checkpoint
from encoding.chunking import Passage
from encoding.encoder import Encoder, load_encoder
from encoding.memory import give_back
from index_format import keys, schema
from index_format.codebook import exclusive_sum
from index_format.codec import Codec
from index_format.errors import NOT_DECODED, EncoderMismatch, IndexCorrupt, ObjectExists, ObjectMissing, StorageError
from index_format.index import Index
from index_format.manifest import ChunkingRecord, CodecRecord, EncoderRecord, FileRef, Manifest
from index_format.segment import EncodedSegment, SegmentContent, read_codec, write_codec, write_segment
from serving.compress import compress_each
from tasks import progress
from tasks.device import gpu_claimed, processor_share
from tasks.prefect_task import as_task
from tasks.stage_documents import Shard

_CALIBRATION_DOCUMENTS = 32


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """All that decides what a shard becomes, beside its documents."""

    address: str
    encoder_name: str
    encoder: EncoderRecord
    codec: CodecRecord
    chunking: ChunkingRecord
    horizon: int = 0  # finished work from before it may be collected at any moment

    @staticmethod
    def of(address: str, base: Manifest, encoder: EncoderRecord) -> Recipe:
        """As an index was begun. encoder: the index's own, under the name by which it is found now."""
        return Recipe(
            address=address,
            encoder_name=encoder.name,
            encoder=encoder,
            codec=base.codec,
            chunking=base.chunking,
            horizon=base.horizon,
        )

    def work_key(self, shard: Shard) -> str:
        """The name of the result of encoding `shard` this way."""
        parts = [shard.content, self.encoder.fingerprint, self.codec.file.sha256, self.codec.bits]
        parts += [self.chunking.passage_tokens, self.chunking.overlap_tokens, self.chunking.pool_factor]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def calibrate_codec(
    address: str,
    shards: Sequence[Shard],
    encoder_name: str,
    chunking: ChunkingRecord,
    bits: int,
    horizon: int = 0,
    device: str | None = None,
) -> CodecRecord:
    """Fix the codec of a new index: the mean is that of the token vectors of a few documents of its first shard.

    device: as `load_encoder` takes it.

    Another processor adds up another mean in its last bits. So where a run that was stopped has finished any of the
    shards, its codec is the one.
    """
    index, checkpoint = Index.at(address), open_checkpoint(encoder_name)
    begun = _codec_of_finished_work(index, shards, checkpoint, chunking, bits, horizon)
    if begun is not None:
        return begun
    table = _read_shard(index, shards[0])
    chosen = np.unique(np.linspace(0, table.num_rows - 1, _CALIBRATION_DOCUMENTS).astype(int))
    with gpu_claimed(device):
        encoder = load_encoder(encoder_name, device)
        _, passages = _chunk(table.take(chosen), encoder, chunking)
        batches = encoder.encode([passage.encoded_text for passage in passages], chunking.pool_factor)
        sample = [vectors for batch in batches for _, vectors in batch]
    return write_codec(index.store, Codec.of(np.concatenate(sample), bits))


calibrate_codec_task = as_task(calibrate_codec, "calibrate codec")


def _codec_of_finished_work(
    index: Index, shards: Sequence[Shard], checkpoint: Checkpoint, chunking: ChunkingRecord, bits: int, horizon: int
) -> CodecRecord | None:
    """The codec that one of the shards has a receipt for. The receipt's name is a hash of the codec's bytes too."""
    finished = set(index.store.list(keys.RECEIPTS))
    for key in index.store.list(keys.CODECS) if finished else []:
        if keys.drawn_at(key) < horizon:
            continue  # it may be collected at any moment
        with contextlib.suppress(ObjectMissing):
            data = index.store.get(key)
            file = FileRef(key=key, size=len(data), sha256=hashlib.sha256(data).hexdigest())
            codec = CodecRecord(bits=bits, file=file)
            recipe = Recipe(
                address=index.address,
                encoder_name=checkpoint.name,
                encoder=checkpoint.record,
                codec=codec,
                chunking=chunking,
            )
            if any(keys.receipt(recipe.work_key(shard)) in finished for shard in shards):
                return codec
    return None


def encode_shard(shard: Shard, recipe: Recipe, device: str | None = None) -> EncodedSegment:
    """The segment of a shard, from its receipt when it was encoded before. device: as `load_encoder` takes it."""
    index = Index.at(recipe.address)
    finished = read_receipt(index, recipe.work_key(shard), recipe.horizon)
    if finished is not None:
        progress.report("encode", advance=shard.characters)
        return finished
    progress.report("encode")
    segment = write_segment(index.store, _encoded(index, shard, recipe, device))
    give_back()
    with contextlib.suppress(ObjectExists):  # another worker finished the same shard; either result will do
        index.store.create(keys.receipt(recipe.work_key(shard)), msgspec.json.encode(segment))
    return segment


encode_shard_task = as_task(encode_shard, "encode shard")


def read_receipt(index: Index, work_key: str, horizon: int = 0) -> EncodedSegment | None:
    """The result of finished work, or None.

    A receipt whose files are gone, damaged or from before `horizon` counts for nothing and makes room for another.
    """
    key = keys.receipt(work_key)
    try:
        segment = msgspec.json.decode(index.store.get(key), type=EncodedSegment)
        for file in (segment.documents_file, segment.passages_file, segment.codes_file):
            index.files.path(file)
        if keys.drawn_at(segment.id) >= horizon:
            return segment
    except (ObjectMissing, IndexCorrupt, *NOT_DECODED):
        pass
    index.store.delete(key)
    return None


def remove_receipts(recipe: Recipe, shards: Sequence[Shard]) -> None:
    """Remove the receipts of shards whose segments are published. Those that a store keeps are garbage, in time."""
    store = Index.at(recipe.address).store
    with contextlib.suppress(StorageError):
        for shard in shards:
            store.delete(keys.receipt(recipe.work_key(shard)))


def _encoded(index: Index, shard: Shard, recipe: Recipe, device: str | None) -> SegmentContent:
    codec = read_codec(index.files, recipe.codec, recipe.encoder.dim)
    with gpu_claimed(device):
        encoder = load_encoder(recipe.encoder_name, device)
        if encoder.record.fingerprint != recipe.encoder.fingerprint:
            raise EncoderMismatch(
                f"this worker's encoder {recipe.encoder_name!r} has fingerprint {encoder.record.fingerprint[:16]}, "
                f"the flow's has {recipe.encoder.fingerprint[:16]}. Give both the same model files."
            )
        return _content(_read_shard(index, shard), encoder, codec, recipe.chunking)


def _content(table: pa.Table, encoder: Encoder, codec: Codec, chunking: ChunkingRecord) -> SegmentContent:
    rows, passages = _chunk(table, encoder, chunking)
    codes: list[NDArray[np.uint8] | None] = [None] * len(passages)
    scales: list[NDArray[np.float16] | None] = [None] * len(passages)
    for batch in encoder.encode([passage.encoded_text for passage in passages], chunking.pool_factor):
        # Compressed batch by batch: float vectors of a whole shard would be eight times its codes.
        compressed = compress_each(codec, [vectors for _, vectors in batch], threads=processor_share())
        for (position, _), own in zip(batch, compressed, strict=True):
            codes[position], scales[position] = own
        progress.report("encode", advance=sum(passages[one].end - passages[one].start for one, _ in batch))
    lengths = np.array([len(one) for one in scales if one is not None], np.uint32)
    first_of_row = np.searchsorted(rows, rows)
    columns = {
        "document": rows,
        "number": np.arange(len(rows)) - first_of_row,
        "start": [passage.start for passage in passages],
        "end": [passage.end for passage in passages],
    }
    return SegmentContent(
        encoder=encoder.record.fingerprint,
        documents=table,
        passages=pa.table(columns, schema=schema.PASSAGES),
        offsets=exclusive_sum(lengths),
        codes=np.concatenate([one for one in codes if one is not None]),
        scales=np.concatenate([one for one in scales if one is not None]),
    )


def _chunk(table: pa.Table, encoder: Encoder, chunking: ChunkingRecord) -> tuple[NDArray[np.uint32], list[Passage]]:
    """The passages of all documents in order, and the row of each one's document."""
    chunker = encoder.chunker(chunking.passage_tokens, chunking.overlap_tokens)
    found = chunker.passages_of(list(zip(table["text"].to_pylist(), table["title"].to_pylist(), strict=True)))
    rows = np.repeat(np.arange(len(found), dtype=np.uint32), list(map(len, found)))
    return rows, list(chain.from_iterable(found))


def _read_shard(index: Index, shard: Shard) -> pa.Table:
    return schema.open_parquet(index.files.path(shard.file), shard.documents).read()

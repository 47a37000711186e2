"""One build both ways, as a flow and by the plain functions of its tasks. Import it inside `private_prefect`."""

from __future__ import annotations

from pathlib import Path

from prefect import flow, get_client

from encoding.checkpoint import open_checkpoint
from encoding.chunking import Chunker
from encoding.encoder import Encoder
from flows import sight
from flows.build_index import build_index
from flows.parameters import BuildParameters
from index_format import keys
from index_format.change import Addition, Origin
from index_format.doctor import refuse_unsafe_store
from index_format.index import Index
from tasks import progress, stage_documents
from tasks.assign_centroids import assign_centroids
from tasks.drift import measure_drift
from tasks.encode_shard import Recipe, calibrate_codec, encode_shard, remove_receipts
from tasks.evaluate import recall_of_exact
from tasks.publish import publish
from tasks.rows import Source
from tasks.settings import wanted_chunking
from tasks.train_codebook import train_codebook

TINY = str(Path(__file__).parents[1] / "tests" / "parity" / "golden" / "colbert-bert")


def reach_prefect() -> None:
    """Start the temporary server."""
    with get_client(sync_client=True):
        pass


def build_by_flow(source: Source, place: str) -> None:
    """As `colonnade build` does."""
    build_index(BuildParameters(source=source, index=place, encoder=TINY))


def build_plainly(source: Source, place: str) -> None:
    """The same steps without Prefect."""
    index, run_id, checkpoint = Index.at(place), keys.new_id(), open_checkpoint(TINY)
    index.refuse_foreign_directory()
    address, encoder, chunking = index.address, checkpoint.record, wanted_chunking(checkpoint)
    staged = stage_documents.stage_documents(source, address, run_id, index.head())
    refuse_unsafe_store(index.store)
    codec = calibrate_codec(address, staged.shards, checkpoint.name, chunking, 4)
    recipe = Recipe(address=address, encoder_name=checkpoint.name, encoder=encoder, codec=codec, chunking=chunking)
    segments = [encode_shard(shard, recipe) for shard in staged.shards]
    codebook = train_codebook(address, segments, codec, encoder.dim)
    records = [assign_centroids(one, address, codebook, codec, encoder.dim) for one in segments]
    publish(address, Addition(encoder, codec, chunking, codebook, records), Origin("build"))
    remove_receipts(recipe, staged.shards)
    stage_documents.remove_staged(address, run_id)
    measure_drift(address, 1)
    recall_of_exact(address, 1)


def update_progress(times: int) -> None:
    """Show on a run's page so many times how far it is."""

    @flow(name="progress")
    def updates() -> None:
        with sight.progress_shown("progress"):
            for _ in range(times):
                progress.report("encode")

    usual, sight.EVERY_SECONDS = sight.EVERY_SECONDS, 0.0
    try:
        updates()
    finally:
        sight.EVERY_SECONDS = usual


def first_passages(encoder: Encoder, texts: list[str], most: int) -> list[str]:
    """The first passages of some texts, as a build cuts them."""
    chunker = Chunker(encoder.tokenizer, passage_tokens=encoder.checkpoint.max_tokens)
    found: list[str] = []
    for text in texts:
        found += [one.encoded_text for one in chunker.passages(text)]
        if len(found) >= most:
            break
    return found[:most]

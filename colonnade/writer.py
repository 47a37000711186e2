"""Changes over HTTP: the steps of the flows, run in the server's process, without a run in Prefect's books."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

from encoding.checkpoint import open_checkpoint
from index_format import keys
from index_format.change import Addition, Origin, refuse_other_encoder
from index_format.index import Index
from index_format.manifest import Manifest
from index_format.reports import read_report
from serving.http.parts import NewDocument, Written
from tasks.assign_centroids import assign_centroids
from tasks.encode_shard import Recipe, encode_shard, remove_receipts
from tasks.publish import delete_documents, publish
from tasks.rows import Source
from tasks.stage_documents import StagedDocuments, remove_staged, stage_documents


@dataclass(frozen=True, slots=True)
class IndexWriter:
    """Adds and deletes documents of the index at an address. encoder: as `serve` was given it."""

    address: str
    encoder: str | None

    def add(self, documents: list[NewDocument]) -> Written:
        """Add documents, or replace those with their ids, as one new version.

        They go through a file of JSON Lines, so that what holds for `colonnade add` holds for them.
        """
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "documents.jsonl"
            with source.open("w", encoding="utf-8", errors="replace") as file:
                for one in documents:
                    row = {**one.metadata, "id": one.id, "title": one.title, "text": one.text}
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
            return self._add(Source(location=str(source)))

    def delete(self, ids: list[str]) -> Written:
        """Delete documents by id, as one new version; ids that are not there count as unchanged."""
        wanted = sorted(set(ids))
        manifest = delete_documents(self.address, wanted, Origin("delete"))
        deleted = manifest.commit.deleted if manifest else 0
        version = (manifest or Index.at(self.address).current()).version
        return Written(version=version, deleted=deleted, unchanged=len(wanted) - deleted)

    def _add(self, source: Source) -> Written:
        index, run_id = Index.at(self.address), keys.new_id()
        base = index.current()
        recipe = self._recipe(index, base)
        try:
            staged = stage_documents(source, self.address, run_id, base)
            manifest = self._publish(base, recipe, staged) if staged.shards else None
        finally:
            remove_staged(self.address, run_id)
        rejected = read_report(index.files, staged.rejected_file)
        return Written(
            version=(manifest or index.current()).version,
            added=manifest.commit.added if manifest else 0,
            changed=manifest.commit.changed if manifest else 0,
            unchanged=staged.unchanged,
            rejected=tuple({"id": row["id"], "reason": row["reason"]} for row in rejected),
        )

    def _recipe(self, index: Index, base: Manifest) -> Recipe:
        checkpoint = open_checkpoint(self.encoder or base.encoder.name)
        refuse_other_encoder(base, checkpoint.record, where=index.address)
        return Recipe(
            address=self.address,
            encoder_name=checkpoint.name,
            encoder=checkpoint.record,
            codec=base.codec,
            chunking=base.chunking,
            horizon=base.horizon,
        )

    def _publish(self, base: Manifest, recipe: Recipe, staged: StagedDocuments) -> Manifest | None:
        settings = (recipe.codec, recipe.encoder.dim)
        encoded = [encode_shard(shard, recipe) for shard in staged.shards]
        records = [assign_centroids(one, self.address, base.codebook, *settings) for one in encoded]
        addition = Addition(recipe.encoder, recipe.codec, recipe.chunking, base.codebook, records)
        origin = Origin("add", rejected=staged.rejected, rejected_file=staged.rejected_file)
        manifest = publish(self.address, addition, origin)
        remove_receipts(recipe, staged.shards)
        return manifest

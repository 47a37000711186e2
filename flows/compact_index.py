"""Small segments into large ones, without their deleted documents; every answer stays what it was."""

from __future__ import annotations

from dataclasses import asdict

from prefect import flow

from flows.parameters import CompactParameters
from flows.sight import link_version, show_numbers
from flows.turns import turn
from index_format.compaction import Compacted, CompactionPolicy
from tasks.upkeep import compact_task


@flow(name="compact-index", persist_result=False, result_serializer="json")
def compact_index(parameters: CompactParameters) -> Compacted:
    """Rewrite small segments and those with many deletions. Run it beside anything else, at any time."""
    policy = CompactionPolicy(alike=parameters.alike, deleted_share=parameters.deleted_share)
    with turn("compact", parameters.index):
        done = compact_task(parameters.index, policy)
    show_numbers(asdict(done), parameters.index)
    link_version(parameters.index, done.version)
    return done

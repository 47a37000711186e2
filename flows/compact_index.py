"""Small segments into large ones, without their deleted documents; every answer stays what it was."""

from __future__ import annotations

from dataclasses import asdict

from prefect import flow

from flows.parameters import CompactParameters
from flows.sight import busy, link_version, show_numbers, stood_aside, warn
from flows.turns import turn
from index_format.compaction import Compacted, CompactionPolicy
from index_format.index import Index
from index_format.manifest import Manifest
from tasks.upkeep import compact_task


@flow(name="compact-index", persist_result=False, result_serializer="json")
def compact_index(parameters: CompactParameters) -> Compacted:
    """Rewrite small segments and those with many deletions. Run it beside anything else, at any time."""
    policy = CompactionPolicy(alike=parameters.alike, deleted_share=parameters.deleted_share)
    index = Index.at(parameters.index)
    with turn("compact", index.address) as alone:
        if not alone:
            return stood_aside(_as_it_is(index.current()), warn(busy("compaction", index.address)))
        done = compact_task(index.address, policy)
    show_numbers(asdict(done), index.address)
    link_version(index.address, done.version)
    return done


def _as_it_is(head: Manifest) -> Compacted:
    segments = len(head.segments)
    return Compacted(head.version, segments, segments, rewritten=0, discarded=0)

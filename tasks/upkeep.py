"""The steps that look after an index: compaction and garbage collection."""

from __future__ import annotations

import time

from index_format.compaction import Compacted, CompactionPolicy, compact_index
from index_format.garbage import Garbage, collect_garbage, find_garbage
from index_format.history import Retention
from index_format.index import Index
from tasks.prefect_task import as_task


def compact(address: str, policy: CompactionPolicy) -> Compacted:
    """Rewrite the segments that the policy chooses."""
    return compact_index(Index.at(address), policy)


compact_task = as_task(compact, "compact")


def collect(address: str, retention: Retention, delete: bool) -> Garbage:
    """Find what nothing needs and, if told to, delete it."""
    index, now = Index.at(address), time.time_ns() // 1_000_000
    return collect_garbage(index, retention, now) if delete else find_garbage(index, index.current(), retention, now)


collect_task = as_task(collect, "collect garbage")

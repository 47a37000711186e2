"""The rules of the protocol, each with the way to take it away.

Every rule is a small function of the product; here it is replaced by one that does not care.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any
from unittest import mock

import numpy as np

from index_format import change, commit, compaction, garbage, history
from index_format.compaction import Compaction
from index_format.errors import CommitUnknown, StorageError
from index_format.history import Retention
from index_format.index import Index
from index_format.manifest import Manifest
from index_format.segment import SegmentReader
from index_format.store import Store

Removal = Callable[[], AbstractContextManager[object]]


def _replaced(target: object, name: str, replacement: object) -> Removal:
    return lambda: mock.patch.object(target, name, replacement)


def _ignored(*places: tuple[object, str], answer: object = None) -> Removal:
    """Functions that only answer, whatever is asked."""

    @contextlib.contextmanager
    def removed() -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for target, name in places:
                stack.enter_context(mock.patch.object(target, name, return_value=answer))
            yield

    return removed


def _none_before(segments: Iterable[SegmentReader], among: Collection[str] | None = None) -> dict[str, change.Place]:
    """The live documents of a new segment, but none of those that the index had when it is added to."""
    return {} if isinstance(segments, list) and among is not None else _live_documents(segments, among)


_live_documents = change.live_documents


def _collect_without_commit(index: Index, retention: Retention, now: int) -> None:
    garbage.delete_garbage(index, garbage.find_garbage(index, index.current(), retention, now))


def _only_the_floor(base: Manifest, found: garbage.Garbage) -> Manifest:
    return _without(base, garbage.Garbage(found.floor, base.horizon, found.sizes))


def _only_the_horizon(base: Manifest, found: garbage.Garbage) -> Manifest:
    return _without(base, garbage.Garbage(base.floor, found.horizon, found.sizes))


_without = garbage._without


def _only_the_head(newest_first: Iterator[Manifest], retention: Retention, now: int) -> list[Manifest]:
    """The floor that retention says, and the files of the current version alone."""
    kept = history.versions_to_keep(newest_first, retention, now)
    head = kept[0]
    return [head, *(_naming_nothing(one) for one in kept[1:])]


def _naming_nothing(manifest: Manifest) -> Any:
    return mock.Mock(version=manifest.version, named_keys=set)


def _publish_and_clean_up(store: Store, proposed: Manifest) -> bool:
    """What Lance did: a commit that was answered with an error deletes what it wrote."""
    try:
        return _publish(store, proposed)
    except (StorageError, CommitUnknown):
        base = commit.read_version(store, proposed.version - 1)
        for key in sorted(proposed.named_keys() - base.named_keys()):
            store.delete(key)
        raise


_publish = commit._publish


def _start_over(store: Store, proposed: Manifest, error: StorageError) -> bool:
    try:
        return _is_ours_after_all(store, proposed, error)
    except CommitUnknown:
        return False


_is_ours_after_all = commit.is_ours_after_all


def _no_rows(rows: np.ndarray, deleted: np.ndarray) -> list[int]:
    return []


def _replace_what_is_left(index: Index, base: Manifest, done: Compaction) -> Manifest:
    """Inputs that are gone are not missed."""
    there = {record.id for record in base.segments}
    pairs = [pair for pair in zip(done.inputs, done.rows, strict=True) if pair[0].id in there]
    left = Compaction([record for record, _ in pairs], done.output, [rows for _, rows in pairs])
    if not pairs:
        return change.next_version(base, change.commit_record(change.Origin("compact")), base.segments)
    with mock.patch.object(compaction, "refuse_changed_inputs"):
        return _replace_segments(index, base, left)


_replace_segments = compaction.replace_segments


def _open_once(self: Index, opener: Callable[[Manifest], Any]) -> Any:
    return opener(self.current())


def _read_head_once(store: Store) -> Manifest | None:
    found = commit.versions(store)
    return commit.read_version(store, found[-1]) if found else None


RULES: dict[str, Removal] = {
    "a commit whose answer was lost is recognised by its id": _ignored((commit, "is_ours_after_all"), answer=False),
    "an unknown outcome is told, not tried again": _replaced(commit, "is_ours_after_all", _start_over),
    "a version counts only as parent of the next": _ignored((commit, "stands"), answer=True),
    "nothing is deleted after an attempt to commit": _replaced(commit, "_publish", _publish_and_clean_up),
    "no file older than the horizon is newly named": _ignored(
        (commit, "refuse_collectable"), (change, "refuse_collectable"), (compaction, "refuse_collectable")
    ),
    "collection commits before it deletes": _replaced(garbage, "collect_garbage", _collect_without_commit),
    "collection raises the horizon": _replaced(garbage, "_without", _only_the_floor),
    "collection raises the floor": _replaced(garbage, "_without", _only_the_horizon),
    "collection spares what all retained versions name": _replaced(garbage, "versions_to_keep", _only_the_head),
    "only retained versions are rolled back to or tagged": _ignored((history, "refuse_lost_version")),
    "a change starts over when its base was collected": _ignored((commit, "was_replaced"), answer=False),
    "a head that was collected is looked for again": _replaced(commit, "read_head", _read_head_once),
    "a reader whose version was collected opens the next": _replaced(Index, "open_current", _open_once),
    "a document takes the place of the live one with its id": _replaced(change, "live_documents", _none_before),
    "segments of another codebook are refused": _ignored((change, "refuse_other_codebook")),
    "compaction refuses changed inputs": _replaced(compaction, "replace_segments", _replace_what_is_left),
    "compaction carries later deletions": _replaced(compaction, "carried_deletions", _no_rows),
    "compaction refuses documents that came back": _ignored((compaction, "refuse_returned_documents")),
}

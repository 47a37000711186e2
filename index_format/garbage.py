"""What nothing needs any more, found and removed (SPEC §7.2).

Two phases. A commit raises the floor, below which no version counts, and the horizon, before which no file may be
named that is not named already. From then on what was found is garbage for every writer, however slow, and it is
deleted. No clock is trusted: a wrong one makes a writer start over or keeps garbage longer, and loses nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

from index_format import keys
from index_format.change import Origin, commit_record, next_version
from index_format.commit import read_version
from index_format.errors import NOT_DECODED, ObjectMissing
from index_format.history import Retention, versions_to_keep
from index_format.index import Index
from index_format.manifest import Manifest
from index_format.segment import EncodedSegment
from index_format.store import LocalStore

_MILLISECONDS = 1000


@dataclass(frozen=True, slots=True)
class Garbage:
    """Objects that nothing needs, by key with their bytes, and the floor and horizon that make it so."""

    floor: int
    horizon: int
    sizes: dict[str, int]

    @property
    def bytes(self) -> int:
        return sum(self.sizes.values())

    @property
    def versions(self) -> list[int]:
        """The versions among them, ascending."""
        return sorted(version for key in self.sizes if (version := keys.manifest_version(key)) is not None)


def find_garbage(index: Index, base: Manifest, retention: Retention, now: int) -> Garbage:
    """What nothing needs, seen from `base`. `now` is in milliseconds since 1970."""
    kept = versions_to_keep(_newest_first(index, base), retention, now)
    floor = kept[-1].version
    tagged = [read_version(index.store, version) for version in set(base.tags.values()) if version < floor]
    needed = set[str]().union(*(manifest.named_keys() for manifest in [*kept, *tagged]))
    listed = index.store.list("")
    horizon = max(base.horizon, _bounded(retention.horizon(now), listed))
    needed |= {keys.manifest(manifest.version) for manifest in tagged}
    found = [key for key in listed if key not in needed and is_garbage(index, key, floor, horizon)]
    return Garbage(floor, horizon, {key: _size(index, key) for key in found})


def collect_garbage(index: Index, retention: Retention, now: int) -> Garbage:
    """Remove what nothing needs. Returns what it was; where there was nothing, there is no new version."""
    found = Garbage(0, 0, {})

    def raise_floor(base: Manifest) -> Manifest | None:
        nonlocal found
        found = find_garbage(index, base, retention, now)
        return _without(base, found) if found.sizes else None

    index.change(raise_floor)
    delete_garbage(index, found)
    if isinstance(index.store, LocalStore):
        index.store.tidy(found.horizon / _MILLISECONDS)
    return found


def delete_garbage(index: Index, found: Garbage) -> None:
    """Delete it, the manifests first, so that no version is listed whose files are gone."""
    for key in sorted(found.sizes, key=lambda one: (not one.startswith(keys.MANIFESTS), one)):
        index.store.delete(key)


def is_garbage(index: Index, key: str, floor: int, horizon: int) -> bool:
    """Whether an object that no retained version names is garbage. What this release does not know is not."""
    version = keys.manifest_version(key)
    if version is not None:
        return version < floor
    if keys.is_receipt(key):
        return _finished_at(index, key) < horizon
    return (keys.is_data_key(key) or keys.is_staged(key)) and keys.drawn_at(key) < horizon


def _newest_first(index: Index, base: Manifest) -> Iterator[Manifest]:
    yield base
    for version in range(base.version - 1, base.floor - 1, -1):
        yield read_version(index.store, version)


def _without(base: Manifest, found: Garbage) -> Manifest:
    made = next_version(base, commit_record(Origin("gc")), base.segments)
    return msgspec.structs.replace(made, floor=found.floor, horizon=found.horizon)


def _bounded(horizon: int, listed: list[str]) -> int:
    """No later than just past the newest name, so that a clock that is years ahead stops no writer that begins now."""
    return min(horizon, max((keys.drawn_at(key) for key in listed if keys.is_data_key(key)), default=0) + 1)


def _finished_at(index: Index, receipt: str) -> int:
    """When the segment of a receipt was written; 0 when it cannot be read."""
    try:
        return keys.drawn_at(msgspec.json.decode(index.store.get(receipt), type=EncodedSegment).id)
    except (ObjectMissing, *NOT_DECODED):
        return 0


def _size(index: Index, key: str) -> int:
    try:
        return index.store.size(key)
    except ObjectMissing:
        return 0  # another collector was quicker

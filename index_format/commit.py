"""The one commit: the next manifest, created if absent (SPEC §7).

Before that object exists nothing of a change is visible; after it, everything is. A commit whose answer
was lost is recognised by its own id, so it is neither repeated nor given up.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable

from index_format import keys
from index_format.doctor import refuse_unsafe_store
from index_format.errors import (
    CommitConflict,
    CommitUnknown,
    IndexCorrupt,
    IndexNotFound,
    ObjectExists,
    ObjectMissing,
    StorageError,
)
from index_format.manifest import Manifest, decode_manifest, encode_manifest, refuse_unknown_writer
from index_format.store import Store

Change = Callable[[Manifest | None], Manifest | None]
"""Takes the current manifest (None before the first) and returns the next, or None when nothing changes.

It runs again after every lost race, on the winner's manifest.
"""

_ATTEMPTS = 50
_MAX_PAUSE_SECONDS = 0.5


def versions(store: Store) -> list[int]:
    """All versions that are retained, ascending."""
    found = (keys.manifest_version(key) for key in store.list(keys.MANIFESTS))
    return sorted(version for version in found if version is not None)


def read_version(store: Store, version: int) -> Manifest:
    """The manifest of one version. Raises IndexNotFound when it is not retained."""
    key = keys.manifest(version)
    try:
        manifest = decode_manifest(store.get(key), where=f"{store.address}/{key}")
    except ObjectMissing:
        raise IndexNotFound(f"{store.address} has no version {version}; it has {versions(store)}.") from None
    if manifest.version != version:
        raise IndexCorrupt(f"{store.address}/{key}: says that it is version {manifest.version}. Restore it or rebuild.")
    return manifest


def read_head(store: Store) -> Manifest | None:
    """The current manifest, or None where there is no index."""
    found = versions(store)
    return read_version(store, found[-1]) if found else None


def commit(store: Store, change: Change) -> Manifest | None:
    """Apply `change` to the current manifest and publish the result. Returns it, or None when nothing changed.

    Raises CommitConflict after many lost races, and CommitUnknown when the store hides the outcome.
    """
    for attempt in range(_ATTEMPTS):
        base = read_head(store)
        if base is None:
            refuse_unsafe_store(store)
        else:
            refuse_unknown_writer(base, where=store.address)
        proposed = change(base)
        if proposed is None:
            return None
        if _publish(store, proposed):
            return proposed
        time.sleep(random.uniform(0, min(_MAX_PAUSE_SECONDS, 0.01 * 2**attempt)))
    raise CommitConflict(f"{store.address}: other writers were first {_ATTEMPTS} times. Run again later.")


def _publish(store: Store, proposed: Manifest) -> bool:
    """Whether `proposed` is now the manifest of its version; False when another writer's is."""
    key = keys.manifest(proposed.version)
    try:
        store.create(key, encode_manifest(proposed))
    except StorageError as error:  # ObjectExists too: the key may be taken by our own first try
        return _resolve(store, proposed, error)
    return True


def _resolve(store: Store, proposed: Manifest, error: StorageError) -> bool:
    try:
        ours = _is_ours(store, proposed)
        if ours and not isinstance(error, ObjectExists):
            # It is there, but nobody has said that it is durable; that the key is taken says so.
            with contextlib.suppress(ObjectExists):
                store.create(keys.manifest(proposed.version), encode_manifest(proposed))
        return ours
    except ObjectMissing:
        if error.refused:
            raise error from None
        # It may still be on its way, so this is not yet "no"; only a taken key or a success settles it.
        raise CommitUnknown(
            f"{store.address}: publishing version {proposed.version} failed ({error}) and it is not there now, "
            "but may still appear. Nothing was deleted. Run the same command again: it repeats nothing."
        ) from error
    except (StorageError, IndexCorrupt):
        raise CommitUnknown(
            f"{store.address}: publishing version {proposed.version} failed ({error}) and it cannot be settled. "
            "Nothing was deleted. When the store answers again, run the same command again: it repeats nothing."
        ) from error


def _is_ours(store: Store, proposed: Manifest) -> bool:
    key = keys.manifest(proposed.version)
    there = decode_manifest(store.get(key), where=f"{store.address}/{key}")
    return there.commit.id == proposed.commit.id

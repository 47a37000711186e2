"""The one commit: the next manifest, created if absent (SPEC §7).

Before that object exists nothing of a change is visible; after it, everything is. A commit whose answer
was lost is recognised by its own id, so it is neither repeated nor given up.

The rules below are small functions on purpose: the simulator in `tests/simulator` takes each away in turn and
shows what breaks (docs/decisions/0004).
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterable

from index_format import keys
from index_format.doctor import refuse_unsafe_store
from index_format.errors import (
    CommitConflict,
    CommitUnknown,
    EncoderMismatch,
    IndexCorrupt,
    IndexNotFound,
    ObjectExists,
    ObjectMissing,
    StorageError,
)
from index_format.manifest import Manifest, decode_manifest, encode_manifest, foreign_vectors, refuse_unknown_writer
from index_format.store import Store

Change = Callable[[Manifest | None], Manifest | None]
"""Takes the current manifest (None before the first) and returns the next, or None when nothing changes.

It runs again after every lost race, on the winner's manifest.
"""

_ATTEMPTS = 50
_MAX_PAUSE_SECONDS = 0.5


def versions(store: Store) -> list[int]:
    """The versions whose manifests are there, ascending."""
    found = (keys.manifest_version(key) for key in store.list(keys.MANIFESTS))
    return sorted(version for version in found if version is not None)


def read_version(store: Store, version: int) -> Manifest:
    """The manifest of one version. Raises IndexNotFound when it is not there."""
    key = keys.manifest(version)
    try:
        manifest = decode_manifest(store.get(key), where=f"{store.address}/{key}")
    except ObjectMissing:
        raise IndexNotFound(f"{store.address} has no version {version}; it has {versions(store)}.") from None
    if manifest.version != version:
        raise IndexCorrupt(f"{store.address}/{key}: says that it is version {manifest.version}. Restore it or rebuild.")
    return manifest


def read_head(store: Store) -> Manifest | None:
    """The current manifest, or None where there is no index.

    Listed again after it was read: the version that was listed may have been collected meanwhile, and a create that
    was held up for long may have taken its key again with something that never counted.
    """
    missed = None
    while found := versions(store):
        try:
            head = read_version(store, found[-1])
        except IndexNotFound:
            if found[-1] == missed:
                raise
            missed = found[-1]  # collected since the listing, because there are newer versions
            continue
        if not was_replaced(store, head):
            return head
    return None


def commit(store: Store, change: Change) -> Manifest | None:
    """Apply `change` to the current manifest and publish the result. Returns it, or None when nothing changed.

    Raises CommitConflict after many lost races, or when files of the change were old enough to be collected,
    EncoderMismatch when it brings vectors of another encoder, and CommitUnknown when the store hides the outcome.
    """
    for attempt in range(_ATTEMPTS):
        base = read_head(store)
        if base is not None:
            refuse_unknown_writer(base, where=store.address)
        try:
            proposed = change(base)
            if proposed is None:
                return None
            refuse_foreign_vectors(store, proposed)
            if base is None:
                refuse_unsafe_store(store)
            else:
                refuse_collectable(store, base, _newly_named(store, base, proposed))
        except (ObjectMissing, IndexNotFound):
            if not was_replaced(store, base):
                raise
            continue  # files of `base` were collected while we read them: a newer version has what is needed
        if _publish(store, proposed):
            return proposed
        time.sleep(random.uniform(0, min(_MAX_PAUSE_SECONDS, 0.01 * 2**attempt)))
    raise CommitConflict(f"{store.address}: other writers were first {_ATTEMPTS} times. Run again later.")


def was_replaced(store: Store, manifest: Manifest | None) -> bool:
    """Whether there is a newer version than `manifest`."""
    return manifest is not None and versions(store)[-1:] > [manifest.version]


def refuse_foreign_vectors(store: Store, proposed: Manifest) -> None:
    """Raise EncoderMismatch when a segment or the codebook is not of the encoder that the version names."""
    foreign = foreign_vectors(proposed)
    if foreign:
        raise EncoderMismatch(f"{store.address}: {foreign}. Nothing was changed. Encode with the index's own encoder.")


def refuse_collectable(store: Store, base: Manifest, new_keys: Iterable[str]) -> None:
    """Raise CommitConflict when one of the files that no retained version names is older than the horizon of `base`.

    The collector may be deleting it. It raises the horizon by a commit before it deletes anything, so every
    commit either comes before that one, and is seen by it, or meets the horizon here. No clock is trusted:
    the time in a name is compared with a number in the manifest, whatever both say.
    """
    old = sorted(key for key in new_keys if keys.drawn_at(key) < base.horizon)
    if old:
        raise CommitConflict(
            f"{store.address}: {old[0]} and {len(old) - 1} others were written so long ago that garbage collection "
            "took them for left over. Nothing was changed. Run again: they are made anew. "
            "If this comes again at once, the clock of this machine is slow: set it."
        )


def _newly_named(store: Store, base: Manifest, proposed: Manifest) -> set[str]:
    """What `proposed` names and no retained version does; a rollback names what an older version named."""
    new = proposed.named_keys() - base.named_keys()
    if proposed.commit.restored is not None:
        new -= read_version(store, proposed.commit.restored).named_keys()
    return new


def _publish(store: Store, proposed: Manifest) -> bool:
    """Whether `proposed` is now the manifest of its version; False when another writer's is."""
    try:
        store.create(keys.manifest(proposed.version), encode_manifest(proposed))
    except StorageError as error:
        return is_ours_after_all(store, proposed, error) and stands(store, proposed)
    return stands(store, proposed)


def is_ours_after_all(store: Store, proposed: Manifest, error: StorageError) -> bool:
    """Whether the version is ours although its create did not succeed. Raises CommitUnknown when nobody can know."""
    key = keys.manifest(proposed.version)
    try:
        there = decode_manifest(store.get(key), where=f"{store.address}/{key}")
        ours = there.commit.id == proposed.commit.id
        if ours and not isinstance(error, ObjectExists):
            # It is there, but nobody has said that it is durable; that the key is taken says so.
            with contextlib.suppress(ObjectExists):
                store.create(key, encode_manifest(proposed))
    except ObjectMissing:
        if error.refused:
            raise error from None
        # It may still be on its way, or was ours and is collected: only a manifest that is there settles it.
        raise CommitUnknown(
            f"{store.address}: publishing version {proposed.version} failed ({error}) and it is not there now, "
            "but may still appear. Nothing was deleted. Run the same command again: it repeats nothing."
        ) from error
    except (StorageError, IndexCorrupt):
        raise CommitUnknown(
            f"{store.address}: publishing version {proposed.version} failed ({error}) and it cannot be settled. "
            "Nothing was deleted. When the store answers again, run the same command again: it repeats nothing."
        ) from error
    return ours


def stands(store: Store, proposed: Manifest) -> bool:
    """Whether our manifest, which is there, is part of the history.

    A create that was held up for long may find its key free a second time, because the version that took it was
    collected since. Such a manifest lies below newer ones, and none of them has it for a parent.
    """
    try:
        if versions(store)[-1] == proposed.version:
            return True
        return read_version(store, proposed.version + 1).parent_commit == proposed.commit.id
    except (IndexNotFound, StorageError) as error:
        raise CommitUnknown(
            f"{store.address}: version {proposed.version} was written, but whether it counts cannot be seen ({error}). "
            "Nothing was deleted. When the store answers, run the same command again: it repeats nothing."
        ) from error

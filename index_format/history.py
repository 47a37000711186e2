"""Which versions there are and will be: rolling back, tagging, and what retention keeps (SPEC §8)."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from index_format import keys
from index_format.change import Origin, commit_record, next_version
from index_format.commit import read_version
from index_format.errors import IndexNotFound, InputError
from index_format.index import Index
from index_format.manifest import TAG, Manifest

_MILLISECONDS_A_DAY = 86_400_000


@dataclass(frozen=True, slots=True)
class Retention:
    """What garbage collection keeps: the last `versions` that differ in what they hold, and whatever was current
    or written within the last `days`. Tagged versions are always kept.
    """

    versions: int = 10
    days: float = 7.0

    def __post_init__(self) -> None:
        if self.versions < 1 or self.days < 0 or not math.isfinite(self.days * _MILLISECONDS_A_DAY):
            raise InputError(
                f"keep at least 1 version, and 0 days or any number above, got {self.versions} and {self.days:g}."
            )

    def horizon(self, now: int) -> int:
        """The time in milliseconds before which what nobody names is garbage."""
        return now - int(self.days * _MILLISECONDS_A_DAY)


def versions_to_keep(newest_first: Iterable[Manifest], retention: Retention, now: int) -> list[Manifest]:
    """The current version and those before it that retention keeps; reads no further than one past the last.

    Versions with equal content, such as those of tagging and collecting, count once: else collecting
    would itself push out what it is to keep.
    """
    kept: list[Manifest] = []
    contents = 0
    for manifest in newest_first:
        newer = kept[-1] if kept else None
        contents += newer is None or (newer.segments, newer.codebook) != (manifest.segments, manifest.codebook)
        # It was current until the next one was made.
        recent = newer is not None and keys.drawn_at(newer.commit.id) >= retention.horizon(now)
        if contents > retention.versions and not recent:
            break
        kept.append(manifest)
    return kept


def rollback(index: Index, base: Manifest, version: int, origin: Origin) -> Manifest | None:
    """The manifest whose documents are those of an older version, or None when the current one holds just that.

    Nothing is undone: what came between stays in the history. Raises IndexNotFound when it is not retained.
    """
    refuse_lost_version(index, base, version)
    old = read_version(index.store, version)
    if (old.segments, old.codebook) == (base.segments, base.codebook):
        return None
    made = next_version(base, commit_record(origin, restored=version), old.segments, codebook=old.codebook)
    return msgspec.structs.replace(made, encoder=old.encoder, codec=old.codec, chunking=old.chunking)


def find_version(index: Index, base: Manifest, name: str) -> int:
    """The version that a tag or a number names. Raises InputError."""
    if name in base.tags:
        return base.tags[name]
    if re.fullmatch("[0-9]{1,20}", name):
        return int(name)
    raise InputError(f"{index.address}: {name!r} is neither a version nor a tag; its tags are {sorted(base.tags)}.")


def tag(index: Index, base: Manifest, name: str, version: int, origin: Origin) -> Manifest | None:
    """The manifest in which `name` stands for `version`, which is kept for as long as it does."""
    if not TAG.fullmatch(name):
        raise InputError(
            f"{name!r} is no name for a tag: expected a letter, then up to 63 letters, digits, '.', '_' or '-'."
        )
    refuse_lost_version(index, base, version)
    return _with_tags(base, base.tags | {name: version}, origin)


def untag(index: Index, base: Manifest, name: str, origin: Origin) -> Manifest:
    """The manifest without a tag. The version stays for as long as retention keeps it."""
    if name not in base.tags:
        raise InputError(f"{index.address} has no tag {name!r}; it has {sorted(base.tags)}.")
    left = {other: version for other, version in base.tags.items() if other != name}
    made = _with_tags(base, left, origin)
    assert made is not None
    return made


def refuse_lost_version(index: Index, base: Manifest, version: int) -> None:
    """Raise IndexNotFound unless `base` retains a version: of others, files may be gone or about to go."""
    if not base.retains(version):
        tagged = f", and tags {base.tags}" if base.tags else ""
        raise IndexNotFound(
            f"{index.address} does not retain version {version}; it has {base.floor} to {base.version}{tagged}."
        )


def _with_tags(base: Manifest, tags: dict[str, int], origin: Origin) -> Manifest | None:
    if tags == base.tags:
        return None
    made = next_version(base, commit_record(origin), base.segments)
    return msgspec.structs.replace(made, tags=tags)

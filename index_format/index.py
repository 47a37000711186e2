"""An index at an address: its store, its versions and its files on this machine."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from index_format import commit, keys
from index_format.codebook import Codebook
from index_format.codec import Codec
from index_format.errors import IndexNotFound, InputError, ObjectMissing
from index_format.files import FileCache
from index_format.manifest import Manifest
from index_format.segment import SegmentReader, read_codebook, read_codec
from index_format.store import LocalStore, Store, open_store

Opened = TypeVar("Opened")

_OWN_FOLDERS = {"manifests", "codecs", "codebooks", "segments", "deletions", "reports", "staging", "receipts"}


class Index:
    """One index. Holds no version: every call reads what is there now."""

    def __init__(self, store: Store, cache: Path | None = None) -> None:
        self.store = store
        self.files = FileCache(store, cache)

    @staticmethod
    def at(address: str | os.PathLike[str]) -> Index:
        """The index at a directory or `s3://bucket/prefix`, whether or not it exists yet."""
        return Index(open_store(address))

    @property
    def address(self) -> str:
        return self.store.address

    def head(self) -> Manifest | None:
        """The current manifest, or None where no version was ever published."""
        return commit.read_head(self.store)

    def current(self) -> Manifest:
        """The current manifest. Raises IndexNotFound."""
        return self._existing(self.head())

    def _existing(self, manifest: Manifest | None) -> Manifest:
        if manifest is None:
            raise IndexNotFound(
                f"There is no index at {self.address}. Make one with: colonnade build SOURCE {self.address}"
            )
        return manifest

    def change(self, change: Callable[[Manifest], Manifest | None]) -> Manifest | None:
        """Commit a change to the index that is there. Raises IndexNotFound, and all that `commit` raises."""
        return commit.commit(self.store, lambda base: change(self._existing(base)))

    def version(self, version: int) -> Manifest:
        """The manifest of a version that is there. Raises IndexNotFound."""
        return commit.read_version(self.store, version)

    def versions(self) -> list[int]:
        """The versions whose manifests are there, ascending; `Manifest.retains` says which of them will stay."""
        return commit.versions(self.store)

    def has_version(self, version: int) -> bool:
        """Whether the manifest of a version is there: one small request, where `versions` lists all."""
        try:
            self.store.size(keys.manifest(version))
        except ObjectMissing:
            return False
        return True

    def open_current(self, opener: Callable[[Manifest], Opened]) -> Opened:
        """What `opener` makes of the current version.

        Readers take no lock. When a file is gone because the version was replaced and collected meanwhile, the
        newer one is opened instead. Raises ObjectMissing when the current version itself lacks a file.
        """
        while True:
            manifest = self.current()
            try:
                return opener(manifest)
            except ObjectMissing:
                if not commit.was_replaced(self.store, manifest):
                    raise

    def codec(self, manifest: Manifest) -> Codec:
        return read_codec(self.files, manifest.codec, manifest.encoder.dim)

    def codebook(self, manifest: Manifest) -> Codebook:
        return read_codebook(self.files, manifest.codebook, manifest.encoder.dim)

    def segments(self, manifest: Manifest) -> list[SegmentReader]:
        codec = self.codec(manifest)
        centroids = manifest.codebook.centroids
        return [SegmentReader(self.files, record, codec, centroids) for record in manifest.segments]

    def refuse_foreign_directory(self) -> None:
        """Raise InputError when the place holds something that is not an index, so that nothing is mixed into it."""
        if not isinstance(self.store, LocalStore) or not self.store.root.exists():
            return
        # As in listings, what begins with a dot is no object: a desktop or a mount leaves such files anywhere.
        names = {path.name for path in self.store.root.iterdir() if not path.name.startswith(".")}
        foreign = sorted(names - _OWN_FOLDERS)
        if foreign:
            raise InputError(
                f"{self.address} is not an index: it holds {', '.join(foreign[:3])}. "
                "Name an empty or new directory for the index."
            )

"""Objects with a known size and hash: written under fresh names, checked before their bytes are used (SPEC §3)."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import uuid
from pathlib import Path

from index_format.errors import IndexCorrupt, ObjectExists, ObjectMissing, storage_error
from index_format.manifest import FileRef
from index_format.store import Store


def write_object(store: Store, key: str, data: bytes) -> FileRef:
    """Create an object under a fresh key and return the reference that a manifest keeps."""
    reference = FileRef(key=key, size=len(data), sha256=hashlib.sha256(data).hexdigest())
    try:
        store.create(key, data)
    except ObjectExists:
        # Fresh names do not collide: a retried request met its own first success.
        if hashlib.sha256(store.get(key)).hexdigest() != reference.sha256:
            raise
    return reference


class FileCache:
    """Files of an index on this machine, each checked against its reference once.

    A local index is read in place. Anything else is downloaded into a directory under the name of its
    SHA-256, so that two indexes, or two versions, share equal files.
    """

    def __init__(self, store: Store, directory: Path | None = None) -> None:
        self._store = store
        self._directory = directory or default_cache_directory()
        self._checked: set[tuple[str, str]] = set()
        self._lock = threading.Lock()

    def path(self, reference: FileRef) -> Path:
        """A local file with exactly the bytes that `reference` promises.

        Raises IndexCorrupt when size or hash differ, ObjectMissing when there is no such object.
        """
        path = self._store.local_path(reference.key)
        name = (reference.key, reference.sha256)
        if path is None:
            path = self._directory / reference.sha256[:2] / reference.sha256
            with self._lock:
                if not path.is_file() or (name not in self._checked and _digest(path) != reference.sha256):
                    self._download(reference, path)
        elif name not in self._checked:
            where = f"{self._store.address}/{reference.key}"
            try:
                _refuse_difference(path.stat().st_size, _digest(path), reference, where)
            except FileNotFoundError:
                raise ObjectMissing(f"{where} is gone.") from None
        self._checked.add(name)
        return path

    def _download(self, reference: FileRef, path: Path) -> None:
        data = self._store.get(reference.key)
        digest = hashlib.sha256(data).hexdigest()
        _refuse_difference(len(data), digest, reference, f"{self._store.address}/{reference.key}")
        partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(data)
            partial.replace(path)
        except OSError as error:
            with contextlib.suppress(OSError):
                partial.unlink()
            raise storage_error("write", str(path), error) from error


def default_cache_directory() -> Path:
    """`$XDG_CACHE_HOME/colonnade/objects`, or the same under `~/.cache`."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "colonnade" / "objects"


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _refuse_difference(size: int, digest: str, reference: FileRef, where: str) -> None:
    if size != reference.size:
        raise IndexCorrupt(f"{where}: expected {reference.size} bytes, got {size}. Restore the file or rebuild.")
    if digest != reference.sha256:
        raise IndexCorrupt(f"{where}: expected SHA-256 {reference.sha256}, got {digest}. Restore the file or rebuild.")

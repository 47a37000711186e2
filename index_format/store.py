"""Where objects live: one small interface, and its local and in-memory forms (SPEC §3).

A store holds immutable byte strings under keys. It is a subset of a filesystem on purpose:
what it cannot do (rename, append, overwrite) is what an index must never need.
S3 is in `s3.py`; `open_store` picks by address.
"""

from __future__ import annotations

import contextlib
import os
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from index_format.errors import InputError, ObjectExists, ObjectMissing, storage_error


class Store(Protocol):
    """Eight verbs over immutable objects. Every method raises StorageError when the store fails."""

    @property
    def address(self) -> str:
        """Where this store is, as the user would type it."""
        ...

    def create(self, key: str, data: bytes) -> None:
        """Store `data` under a key that has no object yet, durably and all at once.

        Raises ObjectExists when the key is taken. This is the only way to write.
        """
        ...

    def get(self, key: str) -> bytes:
        """All bytes of an object. Raises ObjectMissing."""
        ...

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """`length` bytes from byte `start`; fewer at the end of the object. Raises ObjectMissing."""
        ...

    def size(self, key: str) -> int:
        """Bytes of an object. Raises ObjectMissing."""
        ...

    def list(self, prefix: str) -> list[str]:
        """All keys that start with `prefix`, sorted."""
        ...

    def delete(self, key: str) -> None:
        """Remove an object; no error when it is not there."""
        ...

    def local_path(self, key: str) -> Path | None:
        """A file that holds the object on this machine, or None where it must be downloaded."""
        ...


_TEMPORARY = ".new-"


class LocalStore:
    """A directory. `create` is link(2) of a synced temporary file: atomic, durable, first writer wins."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root).expanduser().absolute()

    @property
    def address(self) -> str:
        return str(self.root)

    def create(self, key: str, data: bytes) -> None:
        path = self._path(key)
        try:
            try:
                _write_durably(path, data)
            except FileNotFoundError:
                _write_durably(path, data)  # `tidy` took the directory between two steps: once more
        except FileExistsError:
            raise ObjectExists(f"{path} exists already; objects are never overwritten.") from None
        except OSError as error:
            raise storage_error("write", str(path), error) from error

    def get(self, key: str) -> bytes:
        return self.get_range(key, 0, -1)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        path = self._path(key)
        try:
            with path.open("rb") as file:
                file.seek(start)
                return file.read(length)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise _missing(self, key) from None
        except OSError as error:
            raise storage_error("read", str(path), error) from error

    def size(self, key: str) -> int:
        return self.local_path(key).stat().st_size

    def list(self, prefix: str) -> list[str]:
        folder = self.root / prefix.rpartition("/")[0]
        found = []
        for directory, _, names in os.walk(folder):
            inside = Path(directory).relative_to(self.root).as_posix()
            at = "" if inside == "." else f"{inside}/"
            found += [f"{at}{name}" for name in names if not name.startswith(".")]
        return sorted(key for key in found if key.startswith(prefix))

    def delete(self, key: str) -> None:
        path = self._path(key)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise storage_error("delete", str(path), error) from error

    def local_path(self, key: str) -> Path:
        path = self._path(key)
        if not path.is_file():
            raise _missing(self, key)
        return path

    def tidy(self, before: float) -> None:
        """Remove what crashes left: temporary files and empty directories unchanged since `before` (seconds)."""
        for directory, _, names in os.walk(self.root, topdown=False):
            for path in [Path(directory, name) for name in names if name.startswith(_TEMPORARY)]:
                if _changed_at(path) < before:
                    path.unlink(missing_ok=True)
            if _changed_at(Path(directory)) < before:
                with contextlib.suppress(OSError):  # not empty
                    Path(directory).rmdir()

    def _path(self, key: str) -> Path:
        if key.startswith("/") or ".." in key.split("/"):
            raise InputError(f"{key!r} is not an object key.")
        return self.root / key


class MemoryStore:
    """A dictionary, for tests and throwaway indexes."""

    def __init__(self) -> None:
        self._objects: dict[str, bytes] = {}
        self._lock = threading.Lock()

    @property
    def address(self) -> str:
        return "memory://"

    def create(self, key: str, data: bytes) -> None:
        with self._lock:
            if key in self._objects:
                raise ObjectExists(f"{key} exists already; objects are never overwritten.")
            self._objects[key] = bytes(data)

    def get(self, key: str) -> bytes:
        try:
            return self._objects[key]
        except KeyError:
            raise _missing(self, key) from None

    def get_range(self, key: str, start: int, length: int) -> bytes:
        return self.get(key)[start : start + length]

    def size(self, key: str) -> int:
        return len(self.get(key))

    def list(self, prefix: str) -> list[str]:
        return sorted(key for key in list(self._objects) if key.startswith(prefix))

    def delete(self, key: str) -> None:
        self._objects.pop(key, None)

    def local_path(self, key: str) -> Path | None:
        return None


def open_store(address: str | os.PathLike[str]) -> Store:
    """The store at a directory path or an `s3://bucket/prefix` address."""
    text = os.fspath(address)
    if text.startswith("s3://"):
        from index_format.s3 import S3Store

        return S3Store(text)
    if "://" in text:
        raise InputError(f"Cannot open {text!r}: an index lives in a directory or at s3://bucket/prefix.")
    if Path(text).is_file():
        raise InputError(f"{text} is a file: an index lives in a directory or at s3://bucket/prefix.")
    return LocalStore(text)


def _changed_at(path: Path) -> float:
    """When a file or directory last changed; never, where it is gone."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return float("inf")


def _missing(store: Store, key: str) -> ObjectMissing:
    return ObjectMissing(f"{store.address} has no object {key}.")


def _write_durably(path: Path, data: bytes) -> None:
    _make_directories(path.parent)
    with _synced_temporary(path.parent, data) as temporary:
        os.link(temporary, path)
    _sync_directory(path.parent)


@contextlib.contextmanager
def _synced_temporary(directory: Path, data: bytes) -> Iterator[Path]:
    name = directory / f"{_TEMPORARY}{uuid.uuid4().hex}"
    descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield name
    finally:
        name.unlink(missing_ok=True)


def _make_directories(directory: Path) -> None:
    """Create missing directories, each made durable in its parent."""
    if directory.is_dir():
        return
    _make_directories(directory.parent)
    with contextlib.suppress(FileExistsError):
        directory.mkdir()
        _sync_directory(directory.parent)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

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
    """Seven verbs over immutable objects. Every method raises StorageError when the store fails."""

    @property
    def address(self) -> str:
        """Where this store is, as the user would type it."""
        ...

    def create(self, key: str, data: bytes) -> None:
        """Store `data` under a key that has no object yet, durably and all at once.

        Raises ObjectExists when the key is taken, by an object that is durable. This is the only way to write.
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
        self._synced: dict[Path, int] = {}  # when directories had last changed at the time that they were synced

    @property
    def address(self) -> str:
        return str(self.root)

    def create(self, key: str, data: bytes) -> None:
        path = self._path(key)
        there = taken = False
        try:
            try:
                taken = self._place(path, data)
            except FileNotFoundError:
                taken = self._place(path, data)  # `tidy` took the directory between two steps: once more
            there = True
            # Also when it is taken: whoever hears so may build on it, and its writer may not have come so far.
            _sync_directory(path.parent)
        except OSError as error:
            failure = storage_error("write", str(path), error)
            failure.refused = not there
            raise failure from error
        if taken:
            raise ObjectExists(f"{path} exists already; objects are never overwritten.")

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
        path = self.local_path(key)
        try:
            return path.stat().st_size
        except FileNotFoundError:
            raise _missing(self, key) from None
        except OSError as error:
            raise storage_error("read", str(path), error) from error

    def list(self, prefix: str) -> list[str]:
        folder = self.root / prefix.rpartition("/")[0]
        found = []
        try:
            for directory, _, names in os.walk(folder, onerror=_raise_unless_missing):
                inside = Path(directory).relative_to(self.root).as_posix()
                at = "" if inside == "." else f"{inside}/"
                found += [f"{at}{name}" for name in names if not name.startswith(".")]
        except OSError as error:
            raise storage_error("list", str(folder), error) from error
        return sorted(key for key in found if key.startswith(prefix))

    def delete(self, key: str) -> None:
        path = self._path(key)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise storage_error("delete", str(path), error) from error

    def local_path(self, key: str) -> Path:
        path = self._path(key)
        try:
            found = path.is_file()
        except OSError as error:
            raise storage_error("read", str(path), error) from error
        if not found:
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

    def _place(self, path: Path, data: bytes) -> bool:
        """Link synced data to its name; returns whether the name was taken."""
        self._make_directories(path.parent)
        with _synced_temporary(path.parent, data) as temporary:
            return not _link(temporary, path)

    def _make_directories(self, directory: Path) -> None:
        """Create missing directories, and make the entry of each durable in its parent, the root's too.

        One that is there may have been made by a writer that failed before its sync, or is about to sync, after
        `tidy` removed one of that name: so its parent is synced, unless that has not changed since it last was.
        """
        there = directory.is_dir()
        if there and self.root.parent.is_relative_to(directory):
            return  # above the root: not the index's
        self._make_directories(directory.parent)
        if not there:
            with contextlib.suppress(FileExistsError):
                directory.mkdir()
        try:
            self._sync_entries(directory.parent)
        except PermissionError:
            if not there or directory != self.root:
                raise
            # A root that was made for us may lie where we may not read.

    def _sync_entries(self, directory: Path) -> None:
        # Times tick every few milliseconds: a change in the tick of the one before it is the only one not seen.
        changed = directory.stat().st_mtime_ns
        if self._synced.get(directory) != changed:
            _sync_directory(directory)
            self._synced[directory] = changed

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
    """The store at a directory path or an `s3://bucket/prefix` address. Raises InputError for what is neither."""
    text = os.fspath(address)
    if "\0" in text:
        raise InputError(f"Cannot open {text!r}: it holds a NUL character, which neither a path nor a bucket has.")
    if text.startswith("s3://"):
        from index_format.s3 import S3Store

        return S3Store(text)
    if "://" in text:
        raise InputError(f"Cannot open {text!r}: an index lives in a directory or at s3://bucket/prefix.")
    try:
        store = LocalStore(text)
        is_file = store.root.is_file()
        os.fsencode(text)  # `is_file` says no to what could be no path
    except PermissionError as error:
        raise storage_error("open", text, error) from error
    except OSError as error:  # too long a name
        raise InputError(f"Cannot open {text!r} as a directory: {error.strerror}.") from error
    except (RuntimeError, ValueError) as error:  # of a user who is not there, or no file name in any encoding
        raise InputError(f"Cannot open {text!r} as a directory: {error}") from error
    if is_file:
        raise InputError(f"{text} is a file: an index lives in a directory or at s3://bucket/prefix.")
    return store


def _changed_at(path: Path) -> float:
    """When a file or directory last changed; never, where it is gone."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return float("inf")


def _missing(store: Store, key: str) -> ObjectMissing:
    return ObjectMissing(f"{store.address} has no object {key}.")


@contextlib.contextmanager
def _synced_temporary(directory: Path, data: bytes) -> Iterator[Path]:
    name = directory / f"{_TEMPORARY}{uuid.uuid4().hex}"
    descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        try:
            _write_all(descriptor, data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        yield name
    finally:
        name.unlink(missing_ok=True)


def _link(source: Path, target: Path) -> bool:
    try:
        os.link(source, target)
    except FileExistsError:
        return False
    return True


def _write_all(descriptor: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]


def _raise_unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""Objects with a known size and hash: written under fresh names, checked before their bytes are used (SPEC §3)."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import mmap
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from index_format.errors import IndexCorrupt, InputError, ObjectExists, ObjectMissing, storage_error
from index_format.manifest import FileRef
from index_format.store import Store

_log = logging.getLogger("colonnade.files")

CACHE_GIB = 64.0
_AT_ONCE = 8  # files fetched or checked at the same time
_CHUNK = 4 * 2**20  # bytes of a download held in memory
_PART = ".part"
_PART_SECONDS = 3600  # a download that is older than this is nobody's


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


@dataclass(slots=True)
class FileCounts:
    """What a cache of files did since it was made.

    hits, misses: files by whether a sound copy was on this machine when they were first needed; none of either for an
    index that is read in place. fetched_bytes: of objects that were downloaded. damaged_copies: files of the cache that
    were not what they should be, and were fetched again. damaged_objects: files of the index that were refused.
    """

    hits: int = 0
    misses: int = 0
    fetched_bytes: int = 0
    damaged_copies: int = 0
    damaged_objects: int = 0


class FileCache:
    """Files of an index on this machine, each checked against its reference once.

    A local index is read in place. Anything else is downloaded into a directory under the name of its
    SHA-256, so that two indexes, or two versions, share equal files. The directory is kept below a limit:
    what was not used for longest goes first, and never what this cache has given out since the last `hold`.
    Removing a file that is mapped or open takes nothing from its reader.
    """

    def __init__(self, store: Store, directory: Path | None = None, limit: int | None = None) -> None:
        self._store = store
        self._directory = directory or default_cache_directory()
        self._limit = default_cache_limit() if limit is None else limit
        self._checked: set[tuple[str, str]] = set()
        self._held: set[Path] = set()
        self._room = -1  # bytes until the directory has to be looked at
        self._bytes: int | None = None  # in the directory, when it was last looked at and what was written since
        self._counts = FileCounts()
        self._lock = threading.Lock()

    def path(self, reference: FileRef) -> Path:
        """A local file with exactly the bytes that `reference` promises.

        Raises IndexCorrupt when size or hash differ, ObjectMissing when there is no such object.
        """
        path, name = self._store.local_path(reference.key), (reference.key, reference.sha256)
        if path is None:
            path = self._copy(reference)
            self._held.add(path)
            if not path.is_file():
                self._count(misses=1)
                self._download(reference, path)
            elif name not in self._checked:
                self._check_copy(path, reference)
        elif name not in self._checked:
            self._check_in_place(path, reference)
        self._checked.add(name)
        return path

    def fetch(self, references: Iterable[FileRef]) -> None:
        """Get and check many files, several at a time. Raises what `path` raises."""
        wanted = [one for one in dict.fromkeys(references) if (one.key, one.sha256) not in self._checked]
        pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="colonnade-fetch")
        try:
            for _ in pool.map(self.path, wanted):
                pass
        finally:
            pool.shutdown(cancel_futures=True)

    def derived(self, name: str, make: Callable[[], bytes]) -> memoryview:
        """Bytes that can be made anew at any time, kept in a file beside the copies, within the same limit.

        name: a SHA-256 of all that decides them. A file that is no longer what was written is made again; where none
        can be written, the bytes are given all the same.
        """
        folder = self._directory / name[:2]
        for path in folder.glob(f"{name}.*"):
            if path.suffix != _PART and (mapped := _map_if_sound(path)) is not None:
                return mapped
        data = make()
        path = folder / f"{name}.{hashlib.sha256(data).hexdigest()}"
        partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}{_PART}")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(data)
            self._keep(partial, path)
        except OSError as error:
            _log.warning("%s cannot be kept, and will be made again: %s", path, error)
            return memoryview(data)
        finally:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
        return _map_if_sound(path) or memoryview(data)

    def counts(self) -> FileCounts:
        """What was counted until now."""
        with self._lock:
            return replace(self._counts)

    def used_bytes(self) -> int:
        """The bytes in the directory of copies; what other processes wrote there is seen when it is next full."""
        with self._lock:
            if self._bytes is None:
                self._bytes = sum(size for _, size, _ in self._found())
            return self._bytes

    def hold(self, references: Iterable[FileRef]) -> None:
        """Say that from now on only these files are in use."""
        self._held = {self._copy(reference) for reference in references}

    def _copy(self, reference: FileRef) -> Path:
        return self._directory / reference.sha256[:2] / reference.sha256

    def _count(self, **counted: int) -> None:
        with self._lock:
            for name, count in counted.items():
                setattr(self._counts, name, getattr(self._counts, name) + count)

    def _check_copy(self, path: Path, reference: FileRef) -> None:
        if _is_sound(path, reference):
            self._count(hits=1)
            return
        self._count(misses=1, damaged_copies=1)
        self._download(reference, path)

    def _check_in_place(self, path: Path, reference: FileRef) -> None:
        where = f"{self._store.address}/{reference.key}"
        try:
            size, digest = path.stat().st_size, _digest(path)
        except FileNotFoundError:
            raise ObjectMissing(f"{self._store.address} has no object {reference.key}.") from None
        except OSError as error:
            raise storage_error("read", where, error) from error
        self._refuse_difference(size, digest, reference, where)

    def _refuse_difference(self, size: int, digest: str, reference: FileRef, where: str) -> None:
        if size == reference.size and digest == reference.sha256:
            return
        self._count(damaged_objects=1)
        expected, got = f"{reference.size} bytes", f"{size}"
        if size == reference.size:
            expected, got = f"SHA-256 {reference.sha256}", digest
        raise IndexCorrupt(f"{where}: expected {expected}, got {got}. Restore the file or rebuild.")

    def _download(self, reference: FileRef, path: Path) -> None:
        """Stream an object to disk and give it its name once size and hash are right."""
        partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}{_PART}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                digest, size, ended = hashlib.sha256(), 0, False
                while not ended and size <= reference.size:
                    # One byte more than promised, so that a longer object is noticed.
                    wanted = min(_CHUNK, reference.size + 1 - size)
                    chunk = self._store.get_range(reference.key, size, wanted)
                    file.write(chunk)
                    digest.update(chunk)
                    size += len(chunk)
                    ended = len(chunk) < wanted
            where = f"{self._store.address}/{reference.key}"
            self._count(fetched_bytes=size)
            self._refuse_difference(size, digest.hexdigest(), reference, where)
            self._keep(partial, path)
        except OSError as error:
            raise storage_error("write", str(path), error) from error
        finally:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)

    def _keep(self, partial: Path, path: Path) -> None:
        """Give a whole file its name, and make room for it: in one step, so that no other thread counts it as well."""
        with self._lock:
            grown = _size(partial) - _size(path)
            partial.replace(path)
            self._room -= grown
            if self._bytes is not None:
                self._bytes += grown
            if self._room < 0:
                self._bytes = total = self._evict()
                # Where all is in use, look again only after the cache has grown by a twentieth.
                self._room = max(self._limit - total, self._limit // 20)

    def _evict(self) -> int:
        """Remove what was not used for longest until the limit holds. Returns the bytes that are left."""
        self._remove_old_parts()
        found = self._found()
        total = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if total <= self._limit:
                break
            if path not in self._held:
                with contextlib.suppress(OSError):
                    path.unlink()
                    total -= size
        return total

    def _remove_old_parts(self) -> None:
        for path in self._directory.glob(f"*/*{_PART}"):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime >= _PART_SECONDS:
                    path.unlink()

    def _found(self) -> list[tuple[float, int, Path]]:
        """When each whole file of the directory was last used, its bytes, and where it is."""
        found = []
        for path in self._directory.glob("*/*"):
            with contextlib.suppress(OSError):
                status = path.stat()
                if path.suffix != _PART:
                    found.append((status.st_mtime, status.st_size, path))
        return found


def default_cache_directory() -> Path:
    """`$XDG_CACHE_HOME/colonnade/objects`, or the same under `~/.cache`."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "colonnade" / "objects"


def default_cache_limit() -> int:
    """The bytes that the cache may take: `$COLONNADE_CACHE_GIB`, or 64 GiB."""
    text = os.environ.get("COLONNADE_CACHE_GIB", str(CACHE_GIB))
    try:
        return int(float(text) * 2**30)
    except (ValueError, OverflowError):  # of what is no number, and of one without an end
        raise InputError(f"COLONNADE_CACHE_GIB: expected a number of GiB, got {text!r}.") from None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _size(path: Path) -> int:
    """The bytes of a file; none where there is no such file."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _map_if_sound(path: Path) -> memoryview | None:
    """A derived file, mapped, if its content has the SHA-256 that its name ends with. Says that it is in use."""
    try:
        with path.open("rb") as file:
            mapped = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        os.utime(path)
    except (OSError, ValueError):  # gone, or empty
        return None
    return mapped if path.suffix == f".{hashlib.sha256(mapped).hexdigest()}" else None


def _is_sound(path: Path, reference: FileRef) -> bool:
    """Whether a copy is what was promised; what cannot be read is not. Says to the cache that it is in use."""
    try:
        if path.stat().st_size != reference.size or _digest(path) != reference.sha256:
            return False
        os.utime(path)
    except OSError:
        return False
    return True

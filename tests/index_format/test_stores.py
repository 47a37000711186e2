"""The store contract over memory, a directory and S3, and what a directory promises beyond it."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from index_format.errors import InputError, ObjectMissing, StorageError, storage_error
from index_format.store import LocalStore, MemoryStore, Store, open_store
from tests.contracts.store import StoreContract


class TestMemoryStore(StoreContract):
    """The contract in memory."""

    @pytest.fixture
    def store(self) -> Store:
        return MemoryStore()


class TestLocalStore(StoreContract):
    """The contract in a directory."""

    @pytest.fixture
    def store(self, tmp_path: Path) -> Store:
        return LocalStore(tmp_path / "root")


class TestS3Store(StoreContract):
    """The contract in a bucket, over HTTP."""

    @pytest.fixture
    def store(self, fresh_s3_address: str) -> Store:
        return open_store(fresh_s3_address)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    directory = tmp_path / "disk"
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(directory)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("mounting a small disk takes root")
    yield directory
    subprocess.run(["umount", str(directory)], check=True)


def _files(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file()]


def test_a_full_disk_leaves_nothing_behind_and_says_what_to_do(small_disk: Path) -> None:
    """No object, no temporary file, an error with advice, and room for smaller things afterwards."""
    store = LocalStore(small_disk)
    store.create("a/small", b"x" * 1000)
    with pytest.raises(StorageError, match="free some space") as caught:
        store.create("a/large", b"x" * 2_000_000)
    assert caught.value.refused
    assert _files(small_disk) == [small_disk / "a" / "small"]
    assert store.list("") == ["a/small"]
    store.create("a/other", b"x" * 1000)


def test_a_temporary_file_of_a_killed_writer_is_no_object(tmp_path: Path) -> None:
    """What a crash leaves behind is never listed and stands in nobody's way."""
    store = LocalStore(tmp_path)
    store.create("a/one", b"x")
    (tmp_path / "a" / ".new-0123").write_bytes(b"half")
    assert store.list("a/") == ["a/one"]


def test_no_temporary_file_stays_after_a_write(tmp_path: Path) -> None:
    """A directory holds objects only."""
    store = LocalStore(tmp_path)
    store.create("a/one", b"x")
    assert _files(tmp_path) == [tmp_path / "a" / "one"]


@pytest.mark.parametrize("key", ["../outside", "a/../../outside", "/etc/passwd"])
def test_a_key_cannot_leave_the_directory(tmp_path: Path, key: str) -> None:
    """Keys that climb or start at the root are refused by every verb."""
    store = LocalStore(tmp_path / "root")
    for verb in (store.get, store.size, store.delete, store.local_path, lambda key: store.create(key, b"x")):
        with pytest.raises(InputError):
            verb(key)
    assert _files(tmp_path) == []


def test_a_local_path_of_a_missing_object_is_an_error(tmp_path: Path) -> None:
    """A path is only given to a file that is there."""
    with pytest.raises(ObjectMissing):
        LocalStore(tmp_path).local_path("a/none")


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EDQUOT, "free some space"),
        (errno.EACCES, "owner and mode"),
        (errno.EMFILE, "ulimit -n"),
        (errno.EIO, "run again"),
    ],
)
def test_an_operating_system_error_becomes_advice(number: int, advice: str) -> None:
    """Each kind says what, where and what to do."""
    error = storage_error("write", "somewhere/file", OSError(number, os.strerror(number)))
    assert advice in str(error)
    assert "somewhere/file" in str(error)
    assert error.refused


def test_a_path_through_a_file_is_a_storage_error(tmp_path: Path) -> None:
    """An operating system error never leaves the store as such."""
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(StorageError):
        LocalStore(tmp_path / "file").create("a/one", b"x")


def test_an_address_picks_the_store(tmp_path: Path) -> None:
    """A path is a directory; other schemes than s3 and plain files are refused."""
    assert isinstance(open_store(tmp_path), LocalStore)
    (tmp_path / "file").write_bytes(b"x")
    for wrong in ("gs://bucket/prefix", "https://host/index", str(tmp_path / "file"), "s3://"):
        with pytest.raises(InputError):
            open_store(wrong)


def test_a_bucket_that_is_not_there_is_said_to_be_missing(s3_address: str) -> None:
    """A wrong bucket is no empty index: every verb that the server answers in words says so."""
    store = open_store("s3://no-such-bucket/prefix")
    for verb in (store.get, store.list, lambda key: store.create(key, b"x"), lambda key: store.get_range(key, 0, 4)):
        with pytest.raises(StorageError, match="the bucket no-such-bucket does not exist") as caught:
            verb("a/one")
        assert not isinstance(caught.value, ObjectMissing)
    with pytest.raises(StorageError, match="no-such-bucket"):
        store.size("a/one")


def test_a_listing_that_fails_is_no_empty_listing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory that cannot be read holds an index all the same."""
    store = LocalStore(tmp_path)
    store.create("a/one", b"x")

    def refuse(path: object) -> Iterator[object]:
        raise OSError(errno.EIO, "Input/output error", str(path))

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(StorageError, match="Could not list"):
        store.list("a/")

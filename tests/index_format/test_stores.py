"""The store contract over memory, a directory and S3, and what a directory promises beyond it."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from index_format import keys
from index_format.errors import InputError, ObjectExists, ObjectMissing, StorageError, storage_error
from index_format.files import write_object
from index_format.store import LocalStore, MemoryStore, Store, open_store
from tests.contracts.store import StoreContract
from tests.fault_proxy import Fault, Forward, Proxy, Request, Response, answers, lost_answer


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


def _files(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file()]


def test_a_full_disk_leaves_nothing_behind_and_says_what_to_do(small_disk: Path) -> None:
    """No object, no temporary file, an error with advice, and room for smaller things afterwards."""
    store = LocalStore(small_disk)
    store.create("a/small", b"x" * 1000)
    with pytest.raises(StorageError, match="free some space") as caught:
        store.create("a/large", b"x" * 6_000_000)
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


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("a\0b", r"'a\\x00b': it holds a NUL character"),
        ("s3://bucket/a\0b", "it holds a NUL character"),
        ("\ud800", "surrogates not allowed"),
        ("x" * 5000, "File name too long"),
        ("~no-such-user/index", "home directory"),
    ],
)
def test_an_address_that_can_be_no_place_is_refused_by_name(address: str, message: str) -> None:
    """As soon as it is given, and not as an error of the system."""
    with pytest.raises(InputError, match=message) as caught:
        open_store(address)
    assert repr(address) in str(caught.value)


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


class FirstAnswers:
    """Answers the first conditional writes in the given ways, and lets what follows through; counts them all."""

    def __init__(self, *faults: Fault) -> None:
        self.faults = list(faults)
        self.writes = 0

    def __call__(self, request: Request) -> Fault | None:
        if not request.is_conditional:
            return None
        self.writes += 1
        return self.faults.pop(0) if self.faults else None


@pytest.mark.parametrize("status", [409, 429, 500, 503])
def test_a_write_that_may_pass_is_asked_again(s3_proxy: tuple[Proxy, str], status: int) -> None:
    """A conflict with another write that is under way, a busy server, a failing one."""
    proxy, address = s3_proxy
    proxy.decide = first = FirstAnswers(answers(status, "Busy"), answers(status, "Busy"))
    store = open_store(address)
    store.create("a/one", b"x")
    assert (first.writes, store.get("a/one")) == (3, b"x")


def test_a_store_that_goes_on_failing_is_not_asked_for_ever(
    s3_proxy: tuple[Proxy, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six tries, and the outcome is not certain."""
    monkeypatch.setattr("time.sleep", lambda _: None)
    proxy, address = s3_proxy
    proxy.decide = first = FirstAnswers(*[answers(500, "InternalError")] * 9)
    with pytest.raises(StorageError) as caught:
        open_store(address).create("a/one", b"x")
    assert first.writes == 6
    assert not caught.value.refused


def test_a_refusal_after_a_doubtful_try_is_doubtful(s3_proxy: tuple[Proxy, str]) -> None:
    """The first try may have landed, or may land yet."""
    proxy, address = s3_proxy
    proxy.decide = FirstAnswers(answers(500, "InternalError", applied=True), answers(403, "ExpiredToken"))
    store = open_store(address)
    with pytest.raises(StorageError, match="access denied") as caught:
        store.create("a/one", b"x")
    assert not caught.value.refused
    assert store.get("a/one") == b"x"


def test_a_write_whose_answer_was_lost_meets_its_own_success(s3_proxy: tuple[Proxy, str]) -> None:
    """The key is taken, by us: who wrote under a fresh name compares the bytes."""
    proxy, address = s3_proxy
    store = open_store(address)
    proxy.decide = FirstAnswers(lost_answer)
    with pytest.raises(ObjectExists):
        store.create("a/one", b"x")
    proxy.decide = FirstAnswers(lost_answer)
    assert write_object(store, keys.codec(keys.new_id()), b"data").size == 4


LARGE = bytes(33 * 2**20)  # goes up in parts


def completes(request: Request) -> bool:
    return request.method == "POST" and "uploadId" in request.path


@pytest.mark.parametrize("fault", [answers(500, "InternalError", applied=True), lost_answer], ids=["500", "lost"])
def test_a_write_in_parts_whose_last_answer_was_lost_meets_its_own_success(
    s3_proxy: tuple[Proxy, str], fault: Fault
) -> None:
    """The upload is over by then, and that there is none to give up is no answer to the write."""
    proxy, address = s3_proxy
    store, faults = open_store(address), [fault]
    proxy.decide = lambda request: faults.pop() if faults and completes(request) else None
    key = keys.codes(keys.new_id())
    assert write_object(store, key, LARGE).size == len(LARGE)
    assert not faults
    assert store.size(key) == len(LARGE)


def test_a_write_in_parts_that_goes_on_failing_is_doubtful_and_no_missing_object(
    s3_proxy: tuple[Proxy, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each try finds its upload gone, and the last one says so."""
    monkeypatch.setattr("index_format.s3._TRIES", 2)
    proxy, address = s3_proxy
    proxy.decide = lambda request: answers(404, "NoSuchUpload") if completes(request) else None
    with pytest.raises(StorageError, match="Could not write") as caught:
        open_store(address).create("a/one", LARGE)
    assert not isinstance(caught.value, ObjectMissing)
    assert not caught.value.refused


def test_more_keys_than_a_page_are_listed(s3_proxy: tuple[Proxy, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A bucket answers in pages."""
    proxy, address = s3_proxy
    store = open_store(address)
    expected = [f"a/{number:03d}" for number in range(7)]
    for key in expected:
        store.create(key, b"x")

    def small_pages(request: Request, forward: Forward) -> Response:
        return forward(replace(request, path=f"{request.path}&max-keys=3"))

    proxy.decide = lambda request: small_pages if request.is_list else None
    assert store.list("a/") == expected


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The directories that were synced, by name."""
    found: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            found.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    return found


def test_the_entry_of_a_directory_is_durable_whoever_made_it(tmp_path: Path, synced: list[str]) -> None:
    """The root's own too: its writer may have been killed before it synced what it had made."""
    above = tmp_path / "above"
    (above / "root" / "deletions" / "x").mkdir(parents=True)
    store = LocalStore(above / "root")
    store.create("deletions/x/1.npz", b"1")
    assert synced == ["above", "root", "deletions", "x"]
    synced.clear()
    store.create("deletions/x/2.npz", b"2")
    assert synced == ["x"]


def test_a_directory_that_was_tidied_away_and_made_again_is_made_durable_again(
    tmp_path: Path, synced: list[str]
) -> None:
    """By another writer, which may be killed before it syncs it."""
    store = LocalStore(tmp_path / "root")
    store.create("manifests/1.json", b"1")
    store.create("deletions/x/1.npz", b"1")
    store.delete("deletions/x/1.npz")
    time.sleep(0.02)  # times of files tick
    store.tidy(float("inf"))
    assert [path.name for path in (tmp_path / "root").iterdir()] == ["manifests"]
    (tmp_path / "root" / "deletions" / "x").mkdir(parents=True)
    synced.clear()
    store.create("deletions/x/2.npz", b"2")
    assert synced == ["root", "deletions", "x"]


def test_an_index_below_a_directory_that_may_not_be_read_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its root was made for us; a root of our own making must be durable."""
    (tmp_path / "root").mkdir()
    real = os.open

    def refuses_what_is_above(path: os.PathLike[str], *arguments: int) -> int:
        if Path(path) == tmp_path:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, *arguments)

    monkeypatch.setattr(os, "open", refuses_what_is_above)
    store = LocalStore(tmp_path / "root")
    store.create("codecs/1.npz", b"1")
    assert store.get("codecs/1.npz") == b"1"
    with pytest.raises(StorageError, match="Permission was refused"):
        LocalStore(tmp_path / "other").create("codecs/1.npz", b"1")


def test_a_directory_that_cannot_be_synced_makes_the_outcome_doubtful(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The object is there, but a power loss may take it: not refused, and a taken key is not said either."""
    store = LocalStore(tmp_path)
    store.create("a/zero", b"x")
    real = os.fsync

    def fails_for_directories(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EIO, "Input/output error")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fails_for_directories)
    for _ in range(2):
        with pytest.raises(StorageError) as caught:
            store.create("a/one", b"x")
        assert not caught.value.refused
        assert not isinstance(caught.value, ObjectExists)
    monkeypatch.undo()
    with pytest.raises(ObjectExists):
        store.create("a/one", b"x")


def test_an_endpoint_that_is_no_address_is_wrong_input(monkeypatch: pytest.MonkeyPatch) -> None:
    """Named with its variable; without it nobody would look there."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "localhost")
    monkeypatch.setattr("s3fs.S3FileSystem.cachable", False)  # others in this process know a store that answers
    with pytest.raises(InputError, match=r"AWS_ENDPOINT_URL: Invalid endpoint: localhost"):
        open_store("s3://bucket/prefix").list("")

"""The commit: many writers make one history, and a doubtful answer is never guessed."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from index_format import keys
from index_format.commit import commit, read_head, read_version, versions
from index_format.errors import (
    CommitConflict,
    CommitUnknown,
    IndexCorrupt,
    IndexNotFound,
    ObjectMissing,
    StorageError,
    UnsupportedFormat,
)
from index_format.manifest import CommitRecord, Manifest, decode_manifest, encode_manifest
from index_format.store import LocalStore, MemoryStore, Store
from tests.index_format.test_manifest import make_manifest


def next_version(base: Manifest | None, operation: str = "test") -> Manifest:
    """A change that always changes something."""
    return msgspec.structs.replace(
        base or make_manifest(),
        version=base.version + 1 if base else 1,
        parent_commit=base.commit.id if base else None,
        commit=CommitRecord(id=keys.new_id(), operation=operation, created_at="2026-11-22T12:00:00.000+00:00"),
    )


@pytest.fixture(params=["memory", "local"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return MemoryStore() if request.param == "memory" else LocalStore(tmp_path)


class UnreliableStore:
    """A store in front of another whose manifest writes go wrong in a given way; counts what it deletes."""

    def __init__(self, inner: Store, write: Callable[[Store, str, bytes], None]) -> None:
        self.inner = inner
        self.write = write
        self.deleted: list[str] = []
        self.unreadable = False

    @property
    def address(self) -> str:
        return self.inner.address

    def create(self, key: str, data: bytes) -> None:
        if key.startswith(keys.MANIFESTS):
            self.write(self.inner, key, data)
        else:
            self.inner.create(key, data)

    def get(self, key: str) -> bytes:
        if self.unreadable:
            raise StorageError("no route to the store")
        return self.inner.get(key)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        return self.inner.get_range(key, start, length)

    def size(self, key: str) -> int:
        return self.inner.size(key)

    def list(self, prefix: str) -> list[str]:
        return self.inner.list(prefix)

    def delete(self, key: str) -> None:
        self.deleted.append(key)
        self.inner.delete(key)

    def local_path(self, key: str) -> Path | None:
        return self.inner.local_path(key)


def writes_and_loses_the_answer(inner: Store, key: str, data: bytes) -> None:
    inner.create(key, data)
    raise StorageError("the connection broke")


def loses_the_request(inner: Store, key: str, data: bytes) -> None:
    raise StorageError("the connection broke")


def refuses(inner: Store, key: str, data: bytes) -> None:
    raise StorageError("the disk is full", refused=True)


def test_the_first_commit_makes_version_one(store: Store) -> None:
    """Before it there is no index; after it there is exactly one version."""
    assert read_head(store) is None
    assert versions(store) == []
    published = commit(store, next_version)
    assert published == read_head(store) == read_version(store, 1)
    assert versions(store) == [1]


def test_a_change_of_nothing_makes_no_version(store: Store) -> None:
    """None from the change means that the index is as wanted."""
    commit(store, next_version)
    assert commit(store, lambda _: None) is None
    assert versions(store) == [1]


def test_many_writers_make_one_history_in_which_each_commit_is_once(store: Store) -> None:
    """Eight writers commit ten times each: every acknowledged commit is in a chain without gaps, once."""

    def write(writer: int) -> list[str]:
        published = [commit(store, lambda base: next_version(base, f"writer {writer}")) for _ in range(10)]
        return [one.commit.id for one in published if one is not None]

    with ThreadPoolExecutor(8) as pool:
        acknowledged = [commit_id for ids in pool.map(write, range(8)) for commit_id in ids]
    assert versions(store) == list(range(1, 81))
    history = [read_version(store, version) for version in versions(store)]
    assert sorted(acknowledged) == sorted(one.commit.id for one in history)
    assert len(set(acknowledged)) == 80
    assert [one.parent_commit for one in history] == [None, *(one.commit.id for one in history[:-1])]


def test_a_lost_race_runs_the_change_again_on_the_winners_manifest(store: Store) -> None:
    """The change sees what the winner published, and builds on it."""
    commit(store, next_version)
    seen: list[int] = []

    def slow_change(base: Manifest | None) -> Manifest:
        assert base is not None
        seen.append(base.version)
        if len(seen) == 1:
            commit(store, lambda current: next_version(current, "the winner"))
        return next_version(base, "the loser")

    published = commit(store, slow_change)
    assert seen == [1, 2]
    assert published is not None
    assert published.version == 3
    winner = read_version(store, 2)
    assert winner.commit.operation == "the winner"
    assert published.parent_commit == winner.commit.id


def test_a_commit_whose_answer_was_lost_is_recognised_as_our_own(store: Store) -> None:
    """It is acknowledged once, neither repeated nor given up."""
    unreliable = UnreliableStore(store, writes_and_loses_the_answer)
    published = commit(unreliable, next_version)
    assert published == read_version(store, 1)
    assert versions(store) == [1]


def test_a_retried_write_that_meets_its_own_success_is_our_own(store: Store) -> None:
    """A client below us may retry and be told that the key is taken, by us."""

    def writes_twice(inner: Store, key: str, data: bytes) -> None:
        inner.create(key, data)
        inner.create(key, data)

    assert commit(UnreliableStore(store, writes_twice), next_version) == read_version(store, 1)
    assert versions(store) == [1]


def test_a_write_that_is_known_to_have_failed_is_raised_as_it_is(store: Store) -> None:
    """Its advice reaches the user, and nothing changed."""
    commit(store, next_version)
    with pytest.raises(StorageError, match="the disk is full") as caught:
        commit(UnreliableStore(store, refuses), next_version)
    assert not isinstance(caught.value, ObjectMissing)
    assert versions(store) == [1]


@pytest.mark.parametrize(
    ("write", "readable"),
    [(loses_the_request, True), (loses_the_request, False), (writes_and_loses_the_answer, False)],
)
def test_an_outcome_that_cannot_be_known_is_said_to_be_unknown(
    store: Store, write: Callable[[Store, str, bytes], None], readable: bool
) -> None:
    """Whether the write was lost or the store cannot be read back: nothing is deleted, and we do not guess."""
    commit(store, next_version)
    store.create("segments/of-this-run", b"data")
    unreliable = UnreliableStore(store, write)

    def change(base: Manifest | None) -> Manifest:
        unreliable.unreadable = not readable
        return next_version(base)

    with pytest.raises(CommitUnknown, match="Nothing was deleted"):
        commit(unreliable, change)
    assert unreliable.deleted == []
    assert store.get("segments/of-this-run") == b"data"


def test_a_lost_answer_after_a_lost_race_is_no_success(store: Store) -> None:
    """The key is taken by another: the change runs again and lands behind it."""
    calls: list[str] = []

    def another_wins_first(inner: Store, key: str, data: bytes) -> None:
        calls.append(key)
        if len(calls) == 1:
            inner.create(key, encode_manifest(next_version(read_head(inner), "another")))
            raise StorageError("the connection broke")
        inner.create(key, data)

    published = commit(UnreliableStore(store, another_wins_first), lambda base: next_version(base, "ours"))
    assert published is not None
    assert [read_version(store, version).commit.operation for version in versions(store)] == ["another", "ours"]


def test_a_late_create_of_a_version_that_was_collected_is_no_success(store: Store) -> None:
    """Its key was free again only because the version that took it is gone: the change is made anew."""
    commit(store, next_version)
    late: list[str] = []

    def is_held_up(inner: Store, key: str, data: bytes) -> None:
        if not late:
            late.append(key)
            for _ in range(3):
                commit(inner, lambda base: next_version(base, "another"))
            inner.delete(key)
        inner.create(key, data)

    published = commit(UnreliableStore(store, is_held_up), lambda base: next_version(base, "ours"))
    assert published is not None
    assert published == read_head(store)
    assert published.version == 5


def test_a_late_create_whose_neighbours_are_collected_too_is_unknown(store: Store) -> None:
    """It may have been the history's own, collected at once: nobody can tell, so we do not guess."""
    commit(store, next_version)

    def is_held_up_for_long(inner: Store, key: str, data: bytes) -> None:
        for _ in range(3):
            commit(inner, lambda base: next_version(base, "another"))
        for version in (2, 3):
            inner.delete(keys.manifest(version))
        inner.create(key, data)

    with pytest.raises(CommitUnknown, match="whether it counts cannot be seen"):
        commit(UnreliableStore(store, is_held_up_for_long), lambda base: next_version(base, "ours"))
    head = read_head(store)
    assert head is not None
    assert head.version == 4


def test_a_change_that_reads_a_collected_version_starts_over(store: Store) -> None:
    """Its files are gone because there is a newer one; when there is none, they are missing."""
    commit(store, next_version)
    seen: list[int] = []

    def change(base: Manifest | None) -> Manifest:
        assert base is not None
        seen.append(base.version)
        if len(seen) == 1:
            commit(store, lambda current: next_version(current, "another"))
            raise ObjectMissing("a file of version 1 is gone")
        return next_version(base)

    commit(store, change)
    assert seen == [1, 2]

    def misses(base: Manifest | None) -> Manifest:
        raise ObjectMissing("a file of the current version is gone")

    with pytest.raises(ObjectMissing, match="current version"):
        commit(store, misses)


def test_a_head_that_is_collected_before_it_is_read_is_looked_for_again(store: Store) -> None:
    """The listing showed it, and a newer one came and pushed it out."""
    commit(store, next_version)
    listings: list[list[str]] = []

    class Listing(UnreliableStore):
        def list(self, prefix: str) -> list[str]:
            listings.append(super().list(prefix))
            if len(listings) == 1:
                commit(self.inner, next_version)
                self.inner.delete(keys.manifest(1))
            return listings[-1]

    head = read_head(Listing(store, refuses))
    assert head is not None
    assert head.version == 2


def test_a_writer_that_never_wins_gives_up(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """After many lost races it says so, and has published nothing."""
    monkeypatch.setattr("time.sleep", lambda _: None)

    def another_wins(inner: Store, key: str, data: bytes) -> None:
        inner.create(key, encode_manifest(next_version(read_head(inner), "another")))
        inner.create(key, data)

    with pytest.raises(CommitConflict, match="Run again later"):
        commit(UnreliableStore(store, another_wins), next_version)
    assert {read_version(store, version).commit.operation for version in versions(store)} == {"another"}


def test_an_index_that_needs_unknown_writer_features_is_not_changed(store: Store) -> None:
    """The change is not even computed."""
    commit(store, lambda base: msgspec.structs.replace(next_version(base), writer_flags=["postings"]))
    with pytest.raises(UnsupportedFormat, match="postings"):
        commit(store, lambda _: pytest.fail("computed a change"))
    assert versions(store) == [1]


def test_a_version_that_is_not_retained_is_not_found(store: Store) -> None:
    """The error lists the versions that are."""
    commit(store, next_version)
    with pytest.raises(IndexNotFound, match=r"no version 7; it has \[1\]"):
        read_version(store, 7)


def test_a_manifest_under_another_versions_key_is_corruption(store: Store) -> None:
    """A copied manifest is not a version."""
    commit(store, next_version)
    store.create(keys.manifest(2), store.get(keys.manifest(1)))
    with pytest.raises(IndexCorrupt, match="version 1"):
        read_head(store)


def test_other_objects_beside_manifests_are_nobodys_version(store: Store) -> None:
    """Only keys of exactly the manifest pattern count."""
    commit(store, next_version)
    store.create("manifests/notes.txt", b"x")
    store.create("manifests/2.json", b"x")
    assert versions(store) == [1]
    assert decode_manifest(store.get(keys.manifest(1)), where="here") == read_head(store)

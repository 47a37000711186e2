"""Garbage collection: what it takes, what it never takes, and what it tells before it does."""

from __future__ import annotations

import os
import time
from pathlib import Path

import msgspec
import pytest

from index_format import keys, schema
from index_format.change import Origin
from index_format.compaction import CompactionPolicy, compact_index, merge_segments, publish_compaction
from index_format.errors import CommitConflict, IndexCorrupt, IndexNotFound, ObjectMissing, StorageError
from index_format.files import FileCache, write_object
from index_format.garbage import collect_garbage, find_garbage
from index_format.history import Retention, rollback, tag
from index_format.index import Index
from index_format.npz import map_npz
from index_format.segment import EncodedSegment
from index_format.store import LocalStore, MemoryStore
from serving.snapshot import open_snapshot
from tests.strategies import Recipe, add, all_objects, delete, live_texts, make_recipe, publish, write_documents

FIRST = {"a": "harbour lantern", "b": "copper meadow violin ember glacier", "c": "saffron"}
FOREIGN = [
    "notes.txt",
    "segments/notes.txt",
    "receipts/README.txt",
    "receipts/by-day/2026.json",
    f"receipts/{'ab' * 32}.json.part",
    "staging/notes.txt",
    "staging/keep/000000.parquet",
    f"staging/{'0' * 32}/notes.txt",
    f"staging/{'0' * 32}/00000.parquet",
]
NOTHING_BUT_THE_LAST = Retention(versions=1, days=0)
ALL_SMALL = CompactionPolicy(alike=2, deleted_share=0.01)


def now() -> int:
    """Just past every name that was drawn so far."""
    time.sleep(0.002)
    return time.time_ns() // 1_000_000


def collect(index: Index, retention: Retention = NOTHING_BUT_THE_LAST) -> set[str]:
    return set(collect_garbage(index, retention, now()).sizes)


def test_a_dry_run_tells_what_would_be_deleted_and_changes_nothing(index: Index, recipe: Recipe) -> None:
    """Every object with its bytes; then collecting deletes just that."""
    add(index, recipe, FIRST)
    add(index, recipe, {"b": "ember"})
    compact_index(index, ALL_SMALL)
    before = all_objects(index.store)
    found = find_garbage(index, index.current(), NOTHING_BUT_THE_LAST, now())
    assert all_objects(index.store) == before
    assert found.versions == [1, 2]
    assert found.sizes == {key: len(before[key]) for key in found.sizes}
    assert collect(index) == set(found.sizes)
    assert set(before) - set(all_objects(index.store)) == set(found.sizes)
    assert live_texts(index) == {**FIRST, "b": "ember"}


def test_nothing_that_a_retained_version_names_is_taken(index: Index, recipe: Recipe) -> None:
    """Each version that is kept reads as it did, those below the floor are gone."""
    add(index, recipe, FIRST)
    add(index, recipe, {"b": "ember"})
    delete(index, "a")
    compact_index(index, ALL_SMALL)
    collect(index, Retention(versions=2, days=0))
    assert index.versions() == [3, 4, 5]
    assert live_texts(index, 3) == live_texts(index, 4) == live_texts(index, 5) == {"b": "ember", "c": "saffron"}


def test_a_tagged_version_is_kept_whole(index: Index, recipe: Recipe) -> None:
    """However far below the floor, and it can be restored."""
    add(index, recipe, FIRST)
    index.change(lambda base: tag(index, base, "good", 1, Origin("tag")))
    add(index, recipe, {"a": "ember", "b": "ember", "c": "ember"})
    collect(index)
    assert index.versions() == [1, 3, 4]
    assert live_texts(index, 1) == FIRST
    index.change(lambda base: rollback(index, base, 1, Origin("rollback")))
    collect(index)
    assert live_texts(index) == FIRST


def test_collecting_twice_finds_nothing_the_second_time(index: Index, recipe: Recipe) -> None:
    """And where there is nothing, there is no new version: collecting does not push out what it keeps."""
    add(index, recipe, FIRST)
    add(index, recipe, {"b": "ember"})
    compact_index(index, ALL_SMALL)
    collect(index)
    versions = index.versions()
    assert collect(index) == set()
    assert index.versions() == versions


def test_what_is_young_is_left_alone(index: Index, recipe: Recipe) -> None:
    """A run that is still writing is not disturbed by the default retention."""
    add(index, recipe, FIRST)
    add(index, recipe, {"b": "ember"})
    orphan = write_documents(index, recipe, {"d": "violin"})
    assert collect(index, Retention()) == set()
    publish(index, recipe, orphan)
    assert live_texts(index)["d"] == "violin"


def test_leftovers_of_dead_runs_are_taken(index: Index, recipe: Recipe) -> None:
    """Unpublished segments, staged shards and the receipts of both, damaged ones too; a foreign object stays."""
    add(index, recipe, FIRST)
    orphan = write_documents(index, recipe, {"d": "violin"})
    fields = {name: getattr(orphan, name) for name in EncodedSegment.__struct_fields__}
    leftovers = {keys.receipt("ab" * 32): msgspec.json.encode(EncodedSegment(**fields))}
    for number, damaged in enumerate([b"{", b'{"id": "\xff"}', b'{"by": ' + b"[" * 10_000]):
        leftovers[keys.receipt(f"{number:064x}")] = damaged
    leftovers |= {keys.staged_shard(keys.new_id(), 0): b"staged", keys.work_list(keys.new_id(), 1_000_000): b"staged"}
    for key, data in {**leftovers, **dict.fromkeys(FOREIGN, b"mine")}.items():
        index.store.create(key, data)
    time.sleep(0.002)
    recipe = make_recipe(index)  # something newer, so that the horizon can pass what came before
    expected = {file.key for file in orphan.files()} | set(leftovers)
    assert expected <= collect(index)
    assert set(FOREIGN) <= set(all_objects(index.store))
    assert live_texts(index) == FIRST


def test_a_writer_whose_files_were_collected_is_told_and_publishes_nothing(index: Index, recipe: Recipe) -> None:
    """Whether the files are gone by now or not: the horizon is past them."""
    add(index, recipe, FIRST)
    add(index, recipe, {"a": "ember"})
    late = write_documents(index, recipe, {"d": "violin"})
    time.sleep(0.002)
    delete(index, "a")
    collect(index)
    with pytest.raises(CommitConflict, match="garbage collection"):
        publish(index, recipe, late)
    assert "d" not in live_texts(index)
    add(index, recipe, {"d": "violin"})
    assert live_texts(index)["d"] == "violin"


def test_a_stalled_compactor_whose_output_was_collected_is_told(index: Index, recipe: Recipe) -> None:
    """Its inputs are still there, but what it wrote is not."""
    add(index, recipe, FIRST)
    add(index, recipe, {"d": "violin"})
    stalled = merge_segments(index, index.current(), index.current().segments)
    time.sleep(0.002)
    delete(index, "a")
    add(index, recipe, {"e": "ember"})
    collect(index)
    with pytest.raises(CommitConflict, match="garbage collection"):
        publish_compaction(index, stalled)
    assert set(live_texts(index)) == {"b", "c", "d", "e"}


def test_a_clock_that_is_years_ahead_stops_no_writer_that_begins_afterwards(index: Index, recipe: Recipe) -> None:
    """The horizon never passes the newest name by more than a moment."""
    add(index, recipe, FIRST)
    add(index, recipe, {"b": "ember"})
    write_documents(index, recipe, {"lost": "violin"})
    collect_garbage(index, NOTHING_BUT_THE_LAST, now() + 10 * 365 * 86_400_000)
    time.sleep(0.002)
    add(index, recipe, {"d": "violin"})
    assert live_texts(index)["d"] == "violin"


def test_a_version_below_the_floor_cannot_be_restored(index: Index, recipe: Recipe) -> None:
    """Even when its manifest is there still."""
    add(index, recipe, FIRST)
    manifest = index.store.get(keys.manifest(1))
    add(index, recipe, {"a": "ember", "b": "ember", "c": "ember"})
    collect(index)
    index.store.create(keys.manifest(1), manifest)
    with pytest.raises(IndexNotFound, match="does not retain version 1"):
        index.change(lambda base: rollback(index, base, 1, Origin("rollback")))


def test_a_commit_that_comes_back_from_below_the_floor_is_not_acknowledged(index: Index, recipe: Recipe) -> None:
    """A create that was held up until its version was taken, replaced and collected: the change is computed anew."""
    add(index, recipe, FIRST)
    held_up = HeldUp(index.store, until=lambda: others_come_and_go(index, recipe))
    own = write_documents(index, recipe, {"d": "violin"})
    published = publish(Index(held_up, index.files._directory), recipe, own)
    assert published is not None
    assert published == index.version(published.version)
    assert published.version == index.versions()[-1] > 2
    assert live_texts(index)["d"] == "violin"


def others_come_and_go(index: Index, recipe: Recipe) -> None:
    """Version 2 is made, and collected before version 3 is."""
    add(index, recipe, {"a": "ember"})
    add(index, recipe, {"a": "copper"})
    index.store.delete(keys.manifest(2))


class HeldUp(MemoryStore):
    """A store whose first create of a manifest waits until something else has happened."""

    def __init__(self, inner: MemoryStore, until: object) -> None:
        super().__init__()
        self._objects = inner._objects
        self._until = until

    def create(self, key: str, data: bytes) -> None:
        if key.startswith(keys.MANIFESTS) and self._until:
            until, self._until = self._until, None
            until()
        super().create(key, data)


def test_nothing_is_deleted_when_a_retained_version_cannot_be_read(index: Index, recipe: Recipe) -> None:
    """What it names is unknown, so nothing is garbage."""
    add(index, recipe, FIRST)
    add(index, recipe, {"b": "ember"})
    compact_index(index, ALL_SMALL)
    index.store.delete(keys.manifest(2))
    index.store.create(keys.manifest(2), b"{}")
    before = all_objects(index.store)
    with pytest.raises(IndexCorrupt):
        collect(index, Retention(versions=3, days=0))
    assert all_objects(index.store) == before


def test_a_reader_whose_version_is_collected_while_it_opens_gets_the_next(index: Index, recipe: Recipe) -> None:
    """It takes no lock and leaves no mark, and never fails for it."""
    add(index, recipe, FIRST)
    versions: list[int] = []

    def opener(manifest: object) -> object:
        versions.append(manifest.version)
        if len(versions) == 1:
            add(index, recipe, {"a": "ember", "b": "ember", "c": "ember"})
            collect(index)
        return open_snapshot(Index(index.store, index.files._directory / str(len(versions))), manifest)

    snapshot = index.open_current(opener)
    assert versions[0] == 1
    assert snapshot.version == index.current().version == versions[-1]


def test_a_file_that_the_current_version_lacks_is_an_error(index: Index, recipe: Recipe, tmp_path: Path) -> None:
    """Trying again would never end."""
    add(index, recipe, FIRST)
    index.store.delete(index.current().segments[0].codes_file.key)
    index = Index(index.store, tmp_path / "empty cache")
    with pytest.raises(ObjectMissing, match=r"codes\.npz"):
        index.open_current(lambda manifest: open_snapshot(index, manifest))


def test_a_file_that_vanishes_between_two_looks_is_missing_and_not_corrupt(tmp_path: Path, monkeypatch) -> None:
    """In a directory an object may go between the moment its path is found and the moment it is opened."""
    gone = tmp_path / "gone"
    with pytest.raises(ObjectMissing, match="is gone"):
        map_npz(gone, schema.deletion_arrays())
    with pytest.raises(ObjectMissing, match="is gone"):
        schema.open_parquet(gone)
    store = LocalStore(tmp_path)
    monkeypatch.setattr(LocalStore, "local_path", lambda *_: gone)
    reference = write_object(store, keys.codec(keys.new_id()), b"data")
    with pytest.raises(ObjectMissing, match="has no object"):
        FileCache(store).path(reference)


def test_temporary_files_and_empty_directories_are_tidied_up_in_time(tmp_path: Path) -> None:
    """What a crash left an hour ago goes, what is being written stays."""
    store = LocalStore(tmp_path)
    store.create("segments/one/codes.npz", b"data")
    store.create("segments/two/codes.npz", b"data")
    store.delete("segments/two/codes.npz")
    old, young = tmp_path / "segments" / "one" / ".new-old", tmp_path / "segments" / "one" / ".new-young"
    for path in (old, young):
        path.write_bytes(b"half")
    hour_ago = time.time() - 3600
    os.utime(old, (hour_ago, hour_ago))
    os.utime(tmp_path / "segments" / "two", (hour_ago, hour_ago))
    store.tidy(time.time() - 1800)
    assert not old.exists()
    assert not (tmp_path / "segments" / "two").exists()
    assert young.exists()
    assert store.list("") == ["segments/one/codes.npz"]


def test_a_directory_that_is_tidied_away_under_a_writer_is_made_again(tmp_path: Path, monkeypatch) -> None:
    """The create succeeds all the same."""
    store = LocalStore(tmp_path)
    link, tidied = os.link, []

    def link_after_tidying(source: Path, target: Path) -> None:
        if not tidied:
            tidied.append(target)
            source.unlink()
            target.parent.rmdir()
        link(source, target)

    monkeypatch.setattr(os, "link", link_after_tidying)
    store.create("deletions/one/two.npz", b"data")
    assert store.get("deletions/one/two.npz") == b"data"


def test_a_collector_that_cannot_commit_deletes_nothing(index: Index, recipe: Recipe) -> None:
    """Whatever goes wrong with the commit, the files are there still."""
    add(index, recipe, FIRST)
    add(index, recipe, {"a": "ember", "b": "ember", "c": "ember"})
    before = all_objects(index.store)

    def refuse() -> None:
        raise StorageError("the disk is full", refused=True)

    with pytest.raises(StorageError, match="the disk is full"):
        collect(Index(HeldUp(index.store, refuse), index.files._directory))
    assert all_objects(index.store) == before

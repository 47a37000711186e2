"""Files: no byte is used before size and hash are those of the manifest."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from index_format import keys
from index_format.errors import IndexCorrupt, InputError, ObjectExists, ObjectMissing, StorageError
from index_format.files import FileCache, FileCounts, default_cache_limit, write_object
from index_format.index import Index
from index_format.manifest import FileRef
from index_format.segment import read_codebook
from index_format.store import LocalStore, MemoryStore, Store, open_store
from tests.strategies import add, live_texts, make_recipe, recipe_of

DATA = bytes(range(256)) * 8


def local_index(tmp_path: Path) -> tuple[Index, Path]:
    """An index of one segment in a directory."""
    root = tmp_path / "index"
    index = Index.at(root)
    add(index, make_recipe(index), {"a": "harbour lantern", "b": "copper meadow violin ember glacier"})
    return Index.at(root), root


def use_everything(index: Index) -> None:
    """Read what a search would read."""
    manifest = index.current()
    index.codebook(manifest)
    for segment in index.segments(manifest):
        segment.load()
    live_texts(index)


def all_references(index: Index) -> list[FileRef]:
    return index.current().files()


@pytest.mark.parametrize("number", range(6))
@pytest.mark.parametrize("damage", ["flipped", "shorter", "longer", "empty", "gone"])
def test_a_damaged_file_is_detected_before_use(tmp_path: Path, number: int, damage: str) -> None:
    """Each file of an index, in each way: the error names the object."""
    index, root = local_index(tmp_path)
    reference = all_references(index)[number]
    path = root / reference.key
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes({"flipped": data, "shorter": data[:-1], "longer": data + b"x", "empty": b""}[damage])
    with pytest.raises(ObjectMissing if damage == "gone" else IndexCorrupt) as caught:
        use_everything(index)
    assert reference.key in str(caught.value)


def test_swapped_files_are_detected(tmp_path: Path) -> None:
    """Two whole and valid files in each other's place are as wrong as damage."""
    index, root = local_index(tmp_path)
    add(index, recipe_of(index), {"c": "saffron ember"})
    first, second = (root / segment.codes_file.key for segment in index.current().segments)
    other = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(other)
    with pytest.raises(IndexCorrupt, match=r"codes\.npz"):
        use_everything(Index.at(root))


def test_a_whole_index_is_read(tmp_path: Path) -> None:
    """The undamaged index of these tests is fine, so that each error above comes from the damage."""
    index, _ = local_index(tmp_path)
    use_everything(index)
    assert len(all_references(index)) == 6


def test_equal_files_are_each_checked(tmp_path: Path) -> None:
    """A good file does not vouch for another with the same promised hash."""
    store = LocalStore(tmp_path)
    first = write_object(store, keys.codec(keys.new_id()), DATA)
    second = write_object(store, keys.codec(keys.new_id()), DATA)
    (tmp_path / second.key).write_bytes(DATA[:-1] + b"x")
    files = FileCache(store)
    files.path(first)
    with pytest.raises(IndexCorrupt, match=second.key):
        files.path(second)


def test_a_local_file_is_read_in_place(tmp_path: Path) -> None:
    """A directory needs no cache."""
    store = LocalStore(tmp_path / "index")
    reference = write_object(store, keys.codec(keys.new_id()), DATA)
    assert FileCache(store, tmp_path / "cache").path(reference) == tmp_path / "index" / reference.key
    assert not (tmp_path / "cache").exists()


@pytest.fixture(params=["memory", "s3"])
def remote(request: pytest.FixtureRequest) -> Store:
    """A store whose objects must be downloaded."""
    return MemoryStore() if request.param == "memory" else open_store(request.getfixturevalue("fresh_s3_address"))


def test_a_remote_file_is_cached_under_its_hash(remote: Store, tmp_path: Path) -> None:
    """Downloaded once; later caches in the same directory, and equal files, need no store."""
    reference = write_object(remote, keys.codec(keys.new_id()), DATA)
    path = FileCache(remote, tmp_path).path(reference)
    assert path.name == reference.sha256
    assert path.read_bytes() == DATA
    remote.delete(reference.key)
    assert FileCache(remote, tmp_path).path(reference) == path
    twin = FileRef(key=keys.codec(keys.new_id()), size=reference.size, sha256=reference.sha256)
    assert FileCache(remote, tmp_path).path(twin) == path
    assert [one for one in tmp_path.rglob("*") if one.is_file()] == [path]


def test_a_wrong_remote_file_is_never_cached(remote: Store, tmp_path: Path) -> None:
    """What does not have the promised size and hash is refused and not kept."""
    written = write_object(remote, keys.codec(keys.new_id()), DATA)
    for wrong in (
        FileRef(key=written.key, size=written.size + 1, sha256=written.sha256),
        FileRef(key=written.key, size=written.size, sha256="ab" * 32),
    ):
        with pytest.raises(IndexCorrupt, match=written.key):
            FileCache(remote, tmp_path).path(wrong)
    assert not [one for one in tmp_path.rglob("*") if one.is_file()]


@pytest.mark.parametrize("damage", [DATA[:-1] + b"x", DATA[:-1], b""], ids=["flipped", "shorter", "empty"])
def test_a_damaged_cached_file_is_downloaded_again(tmp_path: Path, damage: bytes) -> None:
    """The cache is only a copy: damage to it is repaired, not reported."""
    store = MemoryStore()
    reference = write_object(store, keys.codec(keys.new_id()), DATA)
    path = FileCache(store, tmp_path).path(reference)
    path.write_bytes(damage)
    assert FileCache(store, tmp_path).path(reference).read_bytes() == DATA


def test_a_cache_counts_what_it_fetched_and_what_was_damaged(tmp_path: Path) -> None:
    """A file counts once, when it is first needed; damage by whether it was in the copy or in the index."""
    store, other = MemoryStore(), b"another file"
    references = [write_object(store, keys.codec(keys.new_id()), data) for data in (DATA, other)]
    cold, total = FileCache(store, tmp_path), len(DATA) + len(other)
    for reference in (*references, *references):
        cold.path(reference)
    assert cold.counts() == FileCounts(misses=2, fetched_bytes=total)
    assert cold.used_bytes() == total
    warm = FileCache(store, tmp_path)
    warm.path(references[0])
    warm.path(references[1]).write_bytes(b"damage")
    again = FileCache(store, tmp_path)
    again.fetch(references)
    assert warm.counts() == FileCounts(hits=2)
    assert again.counts() == FileCounts(hits=1, misses=1, fetched_bytes=len(other), damaged_copies=1)
    for reference in references:
        again.path(reference).unlink()
    store.delete(references[0].key)
    store.create(references[0].key, DATA[:-1] + b"x")
    third = FileCache(store, tmp_path)
    with pytest.raises(IndexCorrupt):
        third.fetch(references[:1])
    assert third.counts() == FileCounts(misses=1, fetched_bytes=len(DATA), damaged_objects=1)
    assert third.used_bytes() == 0


def test_damage_to_a_file_that_is_read_in_place_is_counted(tmp_path: Path) -> None:
    """Nothing is fetched, and nothing is a hit or a miss."""
    store = LocalStore(tmp_path / "index")
    sound, damaged = (write_object(store, keys.codec(keys.new_id()), DATA) for _ in range(2))
    (tmp_path / "index" / damaged.key).write_bytes(b"damage")
    cache = FileCache(store, tmp_path / "cache")
    cache.path(sound)
    with pytest.raises(IndexCorrupt):
        cache.path(damaged)
    assert cache.counts() == FileCounts(damaged_objects=1)


def test_a_write_that_was_retried_after_its_own_success_is_fine() -> None:
    """An object with the very bytes that we write is ours; other bytes under the key are an error."""
    store = MemoryStore()
    key = keys.codec(keys.new_id())
    assert write_object(store, key, DATA) == write_object(store, key, DATA)
    with pytest.raises(ObjectExists):
        write_object(store, key, b"other")


def test_a_cache_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    """The error names the cache, not the index."""
    store = MemoryStore()
    reference = write_object(store, keys.codec(keys.new_id()), DATA)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="file"):
        FileCache(store, tmp_path / "file").path(reference)


class SlowStore(MemoryStore):
    """Counts how many reads run at the same time, and how long the longest read is."""

    def __init__(self) -> None:
        super().__init__()
        self.running = self.most = self.longest = 0

    def get_range(self, key: str, start: int, length: int) -> bytes:
        self.running += 1
        self.most = max(self.most, self.running)
        time.sleep(0.02)
        data = super().get_range(key, start, length)
        self.longest = max(self.longest, len(data))
        self.running -= 1
        return data


def written(store: Store, count: int, size: int = 100) -> list[FileRef]:
    return [write_object(store, keys.codec(keys.new_id()), bytes([one]) * size) for one in range(count)]


def cached(directory: Path) -> set[str]:
    return {path.name for path in directory.rglob("*") if path.is_file()}


def test_many_files_are_fetched_at_the_same_time(tmp_path: Path) -> None:
    """Each once, several together; and one that is missing or damaged is raised."""
    store = SlowStore()
    references = written(store, 20)
    files = FileCache(store, tmp_path)
    files.fetch([*references, *references])
    assert store.most > 2
    assert cached(tmp_path) == {one.sha256 for one in references}
    lost = written(store, 3, size=50)
    store.delete(lost[1].key)
    with pytest.raises(ObjectMissing, match=lost[1].key):
        files.fetch(lost)


def test_what_is_fetched_at_the_same_time_is_counted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long a thread rests between naming a file and counting it."""
    rename = Path.replace

    def rename_and_rest(self: Path, target: Path) -> Path:
        renamed = rename(self, target)
        time.sleep(0.01)
        return renamed

    monkeypatch.setattr(Path, "replace", rename_and_rest)
    store = SlowStore()
    files = FileCache(store, tmp_path)
    files.fetch(written(store, 20))
    assert files.used_bytes() == sum(path.stat().st_size for path in tmp_path.glob("*/*"))


def test_downloads_that_nobody_ended_are_removed_after_an_hour(tmp_path: Path) -> None:
    """A younger one is somebody's, and counts when it is whole."""
    store = MemoryStore()
    folder = tmp_path / "ab"
    folder.mkdir()
    for name, age in (("old.part", 3700), ("young.part", 3500)):
        (folder / name).write_bytes(DATA)
        os.utime(folder / name, (time.time() - age, time.time() - age))
    (reference,) = written(store, 1)
    files = FileCache(store, tmp_path)
    files.path(reference)
    assert cached(tmp_path) == {"young.part", reference.sha256}
    assert files.used_bytes() == reference.size


def test_a_large_file_is_streamed(tmp_path: Path) -> None:
    """Never more of it in memory than a few megabytes."""
    store = SlowStore()
    data = bytes(9 * 2**20) + b"end"
    reference = write_object(store, keys.codec(keys.new_id()), data)
    assert FileCache(store, tmp_path).path(reference).read_bytes() == data
    assert store.longest <= 4 * 2**20


def test_the_cache_keeps_below_its_limit_what_was_used_last(tmp_path: Path) -> None:
    """The file that was used longest ago goes first, and what is in use stays even above the limit."""
    store = MemoryStore()
    first, second, third, fourth = written(store, 4)
    for at, reference in enumerate((first, second)):
        path = FileCache(store, tmp_path, limit=250).path(reference)
        os.utime(path, (at, at))
    FileCache(store, tmp_path, limit=250).path(first)
    files = FileCache(store, tmp_path, limit=250)
    files.path(third)
    assert cached(tmp_path) == {first.sha256, third.sha256}
    files.path(first)
    files.path(fourth)
    assert cached(tmp_path) == {one.sha256 for one in (first, third, fourth)}
    files.hold([fourth])
    files.path(second)
    assert fourth.sha256 in cached(tmp_path)
    assert len(cached(tmp_path)) == 2


def test_what_is_derived_is_made_once_and_goes_like_a_copy(tmp_path: Path) -> None:
    """It counts against the limit, is made again when it went, and what was mapped stays readable."""
    made: list[int] = []

    def make() -> bytes:
        made.append(1)
        return DATA

    files = FileCache(MemoryStore(), tmp_path, limit=3000)
    first = files.derived("a" * 64, make)
    assert (bytes(first), bytes(files.derived("a" * 64, make)), len(made)) == (DATA, DATA, 1)
    files.derived("b" * 64, make)
    assert sum(path.stat().st_size for path in tmp_path.glob("*/*")) <= 3000
    files.derived("a" * 64, make)
    assert (bytes(first), len(made)) == (DATA, 3)


def test_a_mapped_file_outlives_its_removal_from_the_cache(tmp_path: Path) -> None:
    """Another process may clean up: what is open stays readable, and what is asked for again is fetched again."""
    store = MemoryStore()
    index = Index(store, tmp_path)
    add(index, make_recipe(index), {"a": "harbour lantern"})
    segments = index.segments(index.current())
    for segment in segments:
        segment.load()
    for path in tmp_path.rglob("*"):
        path.unlink() if path.is_file() else None
    assert segments[0].read_documents([0])[0]["text"] == "harbour lantern"
    assert segments[0].codes.scales.min() > 0
    assert live_texts(Index(store, tmp_path)) == {"a": "harbour lantern"}


@pytest.mark.parametrize(("text", "limit"), [("0.5", 2**29), ("3", 3 * 2**30)])
def test_the_limit_of_the_cache_comes_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, text: str, limit: int
) -> None:
    """In GiB; anything else is wrong input."""
    monkeypatch.setenv("COLONNADE_CACHE_GIB", text)
    assert default_cache_limit() == limit
    for wrong in ("much", "inf", "nan", "1e308"):
        monkeypatch.setenv("COLONNADE_CACHE_GIB", wrong)
        with pytest.raises(InputError, match="COLONNADE_CACHE_GIB"):
            default_cache_limit()


def test_an_index_in_a_bucket_reads_like_one_in_a_directory(fresh_s3_address: str) -> None:
    """The same calls, over HTTP and the cache."""
    documents = {"a": "harbour lantern", "b": "copper meadow violin ember glacier"}
    index = Index.at(fresh_s3_address)
    add(index, make_recipe(index), documents)
    again = Index.at(fresh_s3_address)
    assert live_texts(again) == documents
    manifest = again.current()
    assert len(read_codebook(again.files, manifest.codebook, manifest.encoder.dim).centroids) == 5

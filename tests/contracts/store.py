"""What every store must do, whatever is below it. A test class inherits this and supplies `store`."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from index_format.errors import ObjectExists, ObjectMissing
from index_format.store import Store


class StoreContract:
    """The promises of `index_format.store.Store`. `store` is a fixture: an empty store."""

    @pytest.mark.parametrize("data", [b"", b"x", bytes(range(256)) * 40], ids=["empty", "one byte", "many bytes"])
    def test_what_was_created_is_read_back(self, store: Store, data: bytes) -> None:
        """Bytes come back as they went in."""
        store.create("folder/one", data)
        assert store.get("folder/one") == data
        assert store.size("folder/one") == len(data)

    def test_a_taken_key_is_never_overwritten(self, store: Store) -> None:
        """The second create fails, and the first object stays."""
        store.create("one", b"first")
        with pytest.raises(ObjectExists, match="one"):
            store.create("one", b"second")
        assert store.get("one") == b"first"

    def test_a_missing_object_is_named_in_the_error(self, store: Store) -> None:
        """Whoever reads the error learns which key and which store."""
        for read in (store.get, store.size, lambda key: store.get_range(key, 0, 4)):
            with pytest.raises(ObjectMissing, match="folder/none") as caught:
                read("folder/none")
            assert store.address in str(caught.value)

    def test_an_object_is_no_folder_and_a_folder_no_object(self, store: Store) -> None:
        """Only the very key of an object finds it."""
        store.create("folder/one", b"data")
        for key in ("folder", "folder/one/two", "folder/on"):
            for read in (store.get, store.size):
                with pytest.raises(ObjectMissing):
                    read(key)

    @pytest.mark.parametrize(
        ("start", "length", "expected"),
        [
            (0, 4, b"0123"),
            (3, 4, b"3456"),
            (8, 9, b"89"),
            (0, 10, b"0123456789"),
            (4, 0, b""),
            (10, 4, b""),
            (99, 1, b""),
        ],
    )
    def test_a_range_ends_where_the_object_ends(self, store: Store, start: int, length: int, expected: bytes) -> None:
        """A range gives the bytes that are there."""
        store.create("one", b"0123456789")
        assert store.get_range("one", start, length) == expected

    def test_a_listing_has_every_key_of_the_prefix_in_order(self, store: Store) -> None:
        """A prefix is a string: it may end inside a name, or reach through folders."""
        for key in ("b/2", "a/10", "a/9/deep", "a/1", "ab/1", "top"):
            store.create(key, b"x")
        assert store.list("a/") == ["a/1", "a/10", "a/9/deep"]
        assert store.list("a/1") == ["a/1", "a/10"]
        assert store.list("") == ["a/1", "a/10", "a/9/deep", "ab/1", "b/2", "top"]
        assert store.list("none/") == []

    def test_a_listing_shows_what_is_there_now(self, store: Store) -> None:
        """No listing is remembered."""
        assert store.list("a/") == []
        store.create("a/1", b"x")
        assert store.list("a/") == ["a/1"]
        store.create("a/2", b"x")
        store.delete("a/1")
        assert store.list("a/") == ["a/2"]

    def test_a_deleted_object_is_gone_and_deleting_twice_is_fine(self, store: Store) -> None:
        """Delete says nothing of whether the object was there."""
        store.create("a/1", b"x")
        store.delete("a/1")
        store.delete("a/1")
        store.delete("never/there")
        with pytest.raises(ObjectMissing):
            store.get("a/1")

    def test_a_local_path_holds_the_object(self, store: Store) -> None:
        """Where a store gives a path, the file has the object's bytes; elsewhere it gives none."""
        store.create("a/1", b"data")
        path = store.local_path("a/1")
        assert path is None or path.read_bytes() == b"data"

    def test_exactly_one_of_many_writers_gets_a_key(self, store: Store) -> None:
        """Eight threads race for each of twenty keys: one wins each, and its bytes are the object's."""
        threads, keys = 8, [f"race/{number:02d}" for number in range(20)]
        start = Barrier(threads)

        def write_all(writer: int) -> set[str]:
            won = set()
            for key in keys:
                start.wait()
                try:
                    store.create(key, b"writer %d" % writer)
                except ObjectExists:
                    continue
                won.add(key)
            return won

        with ThreadPoolExecutor(threads) as pool:
            won_by = list(pool.map(write_all, range(threads)))
        assert sorted(key for won in won_by for key in won) == keys
        for writer, won in enumerate(won_by):
            assert {store.get(key) for key in won} <= {b"writer %d" % writer}

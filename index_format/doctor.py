"""Whether a store truly has the primitives that an index stands on (SPEC §3).

A store that answers "created" to two writers of one key loses commits, and nobody notices for a long time.
What is written to find out lies under `staging/` and is removed again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Barrier

from index_format import keys
from index_format.errors import ObjectExists, ObjectMissing, StorageError
from index_format.store import Store

CLIENTS = 8
ROUNDS = 50
LARGE_BYTES = 40 * 2**20  # more than a bucket takes in one part


@dataclass(frozen=True, slots=True)
class Finding:
    """One promise of a store: what it is, whether it held, and what was seen."""

    promise: str
    held: bool
    seen: str


class _Broken(Exception):
    """A promise that does not hold."""


@dataclass(frozen=True, slots=True)
class _Ground:
    """A place of our own in a store, where nobody else writes."""

    store: Store
    id: str

    @property
    def prefix(self) -> str:
        return keys.staged_shard(self.id, 0).removesuffix("000000.parquet")

    def key(self, number: int) -> str:
        return keys.staged_shard(self.id, number)

    def create(self, number: int, data: bytes) -> None:
        """Create an object under a key that nobody has used yet.

        That it is taken says that an earlier try of this very request came through and its answer was lost; what is
        read afterwards tells whether it did.
        """
        _created(self.store, self.key(number), data)

    def clear(self) -> None:
        for key in self.store.list(self.prefix):
            self.store.delete(key)


def examine(store: Store, *, clients: int = CLIENTS, rounds: int = ROUNDS) -> Iterator[Finding]:
    """Test each promise, one after the other. Raises StorageError when the store cannot be reached at all."""
    store.list(keys.MANIFESTS)
    promises: dict[str, Callable[[_Ground], str]] = {
        "a taken key is never overwritten": _never_overwrites,
        f"exactly one of {clients} writers gets a key": lambda ground: _one_winner(ground, clients, rounds),
        "an object is read as soon as it is created": lambda ground: _reads_after_write(ground, rounds),
        "a listing shows every create and delete": lambda ground: _lists_what_is_there(ground, rounds),
        "a listing has all keys in order": _lists_in_order,
        "a range gives the bytes that are there": _reads_ranges,
        "a missing object is missing": _tells_missing,
        "a large object is not overwritten either": _keeps_large_objects,
    }
    for promise, check in promises.items():
        ground = _Ground(store, keys.new_id())
        try:
            yield Finding(promise, True, check(ground))
        except (_Broken, StorageError) as error:
            yield Finding(promise, False, str(error))
        finally:
            with contextlib.suppress(StorageError):
                ground.clear()


def refuse_unsafe_store(store: Store) -> None:
    """Raise StorageError when the store lets a second writer overwrite a key, or forgets the first; in five requests.

    Before the first version of an index: a store that fails this must not be written to.
    """
    ground = _Ground(store, keys.new_id())
    try:
        _never_overwrites(ground)
    except _Broken as broken:
        raise StorageError(
            f"{store.address} cannot hold an index: {broken}. Use another store; `colonnade doctor {store.address}` "
            "tells what this one lacks.",
            refused=True,
        ) from broken
    finally:
        with contextlib.suppress(StorageError):
            store.delete(ground.key(0))


def _never_overwrites(ground: _Ground) -> str:
    key = ground.key(0)
    ground.create(0, b"first")
    if _created(ground.store, key, b"second"):
        raise _Broken("it created an object under a key that was taken")
    _expect(ground.store.get(key), b"first", "after a refused second create")
    if key not in ground.store.list(ground.prefix):
        raise _Broken("its listing lacks an object that was created")
    return "the second create was refused, the first object stayed"


def _one_winner(ground: _Ground, clients: int, rounds: int) -> str:
    start = Barrier(clients)

    def write_all(client: int) -> list[bool]:
        won = []
        for number in range(rounds):
            start.wait()
            won.append(_created(ground.store, ground.key(number), b"client %d" % client))
        return won

    with ThreadPoolExecutor(clients) as pool:
        won_by = list(pool.map(write_all, range(clients)))
    for number in range(rounds):
        winners = [client for client, won in enumerate(won_by) if won[number]]
        if len(winners) > 1:
            raise _Broken(f"in round {number + 1} of {rounds} there were {len(winners)} winners")
        stored = ground.store.get(ground.key(number))
        # Nobody heard of having won: the winner's answer was lost, and its second try met its own object.
        possible = [b"client %d" % client for client in winners or range(clients)]
        if stored not in possible:
            _expect(stored, possible[0], f"in round {number + 1}")
    return f"one winner in each of {rounds} races"


def _reads_after_write(ground: _Ground, rounds: int) -> str:
    for number in range(rounds):
        data = b"object %d" % number
        ground.create(number, data)
        _expect(ground.store.get(ground.key(number)), data, f"read {number + 1} of {rounds}")
        if ground.store.size(ground.key(number)) != len(data):
            raise _Broken(f"the size of object {number + 1} is not that of its bytes")
    return f"{rounds} of {rounds}"


def _lists_what_is_there(ground: _Ground, rounds: int) -> str:
    for number in range(rounds):
        ground.create(number, b"x")
        if ground.key(number) not in ground.store.list(ground.prefix):
            raise _Broken(f"a listing lacked an object that was just created, at the {number + 1}th of {rounds}")
        if number % 2:
            ground.store.delete(ground.key(number))
            if ground.key(number) in ground.store.list(ground.prefix):
                raise _Broken(f"a listing showed an object that was just deleted, at the {number + 1}th of {rounds}")
    return f"{rounds} creates and {rounds // 2} deletes"


def _lists_in_order(ground: _Ground) -> str:
    numbers = [7, 30, 2, 19, 100, 1]
    for number in numbers:
        ground.create(number, b"x")
    listed, expected = ground.store.list(ground.prefix), [ground.key(number) for number in sorted(numbers)]
    if listed != expected:
        raise _Broken(f"expected {len(expected)} keys in order, got {len(listed)}: {listed[:3]} ...")
    return f"{len(expected)} keys in order"


def _reads_ranges(ground: _Ground) -> str:
    data = bytes(range(256)) * 4
    ground.create(0, data)
    ranges = [(0, 1), (0, 1024), (100, 50), (1000, 24), (1000, 4096), (1024, 1), (5000, 1)]
    for start, length in ranges:
        expected = data[start : start + length]
        _expect(ground.store.get_range(ground.key(0), start, length), expected, f"{length} bytes from byte {start}")
    return f"{len(ranges)} ranges, at and past the end too"


def _tells_missing(ground: _Ground) -> str:
    ground.create(0, b"x")
    ground.store.delete(ground.key(0))
    ground.store.delete(ground.key(0))
    for number in (0, 1):
        try:
            found = ground.store.get(ground.key(number))
        except ObjectMissing:
            continue
        raise _Broken(f"it gave {len(found)} bytes for an object that is not there")
    return "deleted, and never created"


def _keeps_large_objects(ground: _Ground) -> str:
    first, key = bytes(LARGE_BYTES), ground.key(0)
    ground.create(0, first)
    if _created(ground.store, key, b"\1" * LARGE_BYTES):
        raise _Broken(f"it overwrote an object of {LARGE_BYTES:,} bytes, which goes up in parts")
    if _created(ground.store, key, b"small"):
        raise _Broken(f"a small object overwrote one of {LARGE_BYTES:,} bytes")
    _expect(ground.store.get_range(key, LARGE_BYTES - 8, 16), bytes(8), "the end of a large object")
    return f"{LARGE_BYTES // 2**20} MiB, in parts where the store takes parts"


def _created(store: Store, key: str, data: bytes) -> bool:
    try:
        store.create(key, data)
    except ObjectExists:
        return False
    return True


def _expect(got: bytes, expected: bytes, when: str) -> None:
    if got != expected:
        raise _Broken(f"{when}: expected {expected[:16]!r}, got {got[:16]!r}")

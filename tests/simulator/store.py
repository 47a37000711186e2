"""A store in which everything that may happen does: lost requests, lost answers, late and repeated writes, kills.

It keeps what it promises (SPEC §3): a create is all or nothing, has one winner, and is seen at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from index_format import keys
from index_format.errors import ObjectExists, ObjectMissing, StorageError
from tests.simulator.schedule import Schedule, Stopped
from tests.simulator.world import World


class Ambiguous(StorageError):
    """An injected fault."""


@dataclass(frozen=True)
class Faults:
    """How likely each call goes wrong in one schedule."""

    write: float
    read: float
    kill: float


class SimStore:
    """Objects in a directory, with faults, telling the world of every create and delete."""

    def __init__(self, schedule: Schedule, world: World, root: Path, faults: Faults) -> None:
        self._schedule = schedule
        self._world = world
        self._root = root
        self._faults = faults
        self._late: list[tuple[str, bytes]] = []
        self.objects: dict[str, bytes] = {}
        self.calls = self.doubts = 0

    @property
    def address(self) -> str:
        return "simulated"

    def create(self, key: str, data: bytes) -> None:
        self._call()
        fault = self._draw(self._faults.write, ["lost", "answer", "late", "again", "killed before", "killed after"])
        if fault == "killed before":
            raise Stopped
        if fault in ("lost", "late"):
            if fault == "late":
                self._late.append((key, data))
            raise self._doubt(key)
        if fault == "again":  # a copy that the network kept, or a client below us sent twice
            self._late.append((key, data))
        if not self._land(key, data):
            raise ObjectExists(f"{key} exists already.")
        if fault == "killed after":
            raise Stopped
        if fault == "answer":
            raise self._doubt(key)

    def get(self, key: str) -> bytes:
        self._read()
        if key not in self.objects:
            raise ObjectMissing(f"there is no {key}")
        return self.objects[key]

    def get_range(self, key: str, start: int, length: int) -> bytes:
        return self.get(key)[start : start + length]

    def size(self, key: str) -> int:
        return len(self.get(key))

    def list(self, prefix: str) -> list[str]:
        self._read()
        return sorted(key for key in self.objects if key.startswith(prefix))

    def delete(self, key: str) -> None:
        self._call()
        if self._draw(self._faults.write / 4, ["killed"]):
            raise Stopped
        if key in self.objects:
            del self.objects[key]
            self._world.deleted(key)

    def local_path(self, key: str) -> Path:
        self._read()
        if key not in self.objects:
            raise ObjectMissing(f"there is no {key}")
        return self._path(key)

    def settle(self) -> None:
        """Let everything arrive that is on its way."""
        while self._late:
            self._land(*self._late.pop())

    def _call(self) -> None:
        self._schedule.pause()
        self.calls += 1
        if self._late and self._schedule.random.random() < 0.03:
            self._land(*self._late.pop(self._schedule.random.randrange(len(self._late))))

    def _read(self) -> None:
        self._call()
        if self._draw(self._faults.kill, ["killed"]):
            raise Stopped
        if self._draw(self._faults.read, ["failed"]):
            raise Ambiguous("the connection broke")

    def _draw(self, likely: float, kinds: list[str]) -> str | None:
        """A fault, or None; no faults outside a run."""
        if self._schedule.current is None or self._schedule.random.random() >= likely:
            return None
        return self._schedule.random.choice(kinds)

    def _doubt(self, key: str) -> Ambiguous:
        self.doubts += 1
        return Ambiguous(f"nobody knows whether {key} was written")

    def _land(self, key: str, data: bytes) -> bool:
        if key in self.objects:
            return False
        self.objects[key] = data
        path = self._path(key)
        if not key.startswith(keys.MANIFESTS) and not path.exists():
            path.write_bytes(data)
        self._world.created(key, data)
        return True

    def _path(self, key: str) -> Path:
        return self._root / key.replace("/", "+")

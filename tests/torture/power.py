"""Power loss: what was not synced is dropped, kept, halved, zeroed or flipped, and names come and go in any order.

Operations are recorded call by call. A moment is drawn, and a directory as it could be after a power loss at that
moment is built: what fsync promised is there, of the rest any part. What was acknowledged must be in it.
Before half of the recordings a writer is killed at a random call, so that others build on what it left unsynced.
"""

from __future__ import annotations

import contextlib
import random
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from index_format.index import Index
from index_format.store import LocalStore
from tests.strategies import live_texts
from tests.torture.disk import Call, in_memory, watched
from tests.torture.operations import Documents, begin, must_hold, plans
from tests.torture.registry import Step

MOMENTS = 100  # drawn from each recording
OPERATIONS = 3  # in each recording
KILLED_FIRST = 0.5  # of the recordings
GO_ON = 0.2  # of the losses, with another operation on what is left
ACKNOWLEDGED = Call("acknowledged", Path())


class _Killed(BaseException):
    """The writer is dead: not even its cleanup runs."""


@dataclass(slots=True)
class _Recorder:
    """Writes down each call; from call `kill_at` on, every call of the writer fails as if it were dead."""

    root: Path
    log: list[Call] = field(default_factory=list)
    kill_at: int | None = None

    def __call__(self, call: Call) -> None:
        if self.kill_at is not None and len(self.log) >= self.kill_at:
            raise _Killed
        target = call.target.relative_to(self.root) if call.target else None
        self.log.append(replace(call, path=call.path.relative_to(self.root), target=target))


@dataclass(slots=True)
class _File:
    """What was written to a file, and how much of it was synced."""

    data: bytearray = field(default_factory=bytearray)
    synced: int = 0

    def after_loss(self, rng: random.Random) -> bytes:
        kept, lost = bytes(self.data[: self.synced]), bytearray(self.data[self.synced :])
        damage = rng.choice(("dropped", "whole", "halved", "zeroed", "flipped"))
        if damage == "dropped" or not lost:
            return kept
        if damage == "halved":
            del lost[len(lost) // 2 :]
        if damage == "zeroed":
            lost[:] = bytes(len(lost))
        if damage == "flipped":
            lost[rng.randrange(len(lost))] ^= 1 << rng.randrange(8)
        return kept + bytes(lost)


Entry = _File | None  # None: a directory


@dataclass(slots=True)
class _Names:
    """The names that a directory has on disk, and the changes to them that are not there yet."""

    durable: dict[str, Entry] = field(default_factory=dict)
    pending: list[tuple[str, bool, Entry]] = field(default_factory=list)

    def sync(self) -> None:
        for name, there, entry in self.pending:
            self._apply(self.durable, name, there, entry)
        self.pending.clear()

    def after_loss(self, rng: random.Random) -> dict[str, Entry]:
        """Any of the pending changes, each by itself: half of the time all of them or none."""
        kept, share = dict(self.durable), rng.choice((0.0, 1.0, rng.random(), rng.random()))
        for name, there, entry in self.pending:
            if rng.random() < share:
                self._apply(kept, name, there, entry)
        return kept

    @staticmethod
    def _apply(names: dict[str, Entry], name: str, there: bool, entry: Entry) -> None:
        if there:
            names[name] = entry
        else:
            names.pop(name, None)


@dataclass(slots=True)
class _Tree:
    """All directories and files of an index as a recording leaves them, by path below the root."""

    names: dict[Path, _Names] = field(default_factory=lambda: {Path(): _Names()})
    files: dict[Path, _File] = field(default_factory=dict)

    @staticmethod
    def of(root: Path) -> _Tree:
        """What is in a directory now, all of it on disk."""
        tree = _Tree()
        for path in sorted(root.rglob("*")):
            own = path.relative_to(root)
            if path.is_dir():
                tree.replay(Call("mkdir", own))
            else:
                data = bytearray(path.read_bytes())
                tree.replay(Call("create", own))
                tree.files[own].data, tree.files[own].synced = data, len(data)
            tree.replay(Call("fsync", own.parent))
        return tree

    def replay(self, call: Call) -> None:
        path = call.path
        above = self.names[path.parent]
        match call.name:
            case "mkdir" if path not in self.names:
                self.names[path] = _Names()
                above.pending.append((path.name, True, None))
            case "create":
                self.files[path] = _File()
                above.pending.append((path.name, True, self.files[path]))
            case "write":
                self.files[path].data += call.data
            case "fsync" if path in self.names:
                self.names[path].sync()
            case "fsync":
                self.files[path].synced = len(self.files[path].data)
            case "link":
                assert call.target is not None
                self.files[call.target] = self.files[path]
                self.names[call.target.parent].pending.append((call.target.name, True, self.files[path]))
            case "unlink":
                above.pending.append((path.name, False, None))

    def write_after_loss(self, root: Path, rng: random.Random) -> None:
        """Build a directory as it may be after a power loss now."""
        contents: dict[int, bytes] = {}

        def write(path: Path) -> None:
            (root / path).mkdir()
            for name, entry in self.names[path].after_loss(rng).items():
                if entry is None:
                    write(path / name)
                else:
                    data = contents.setdefault(id(entry), entry.after_loss(rng))
                    (root / path / name).write_bytes(data)

        write(Path())


@dataclass(frozen=True, slots=True)
class _Recording:
    """The files at the start, all calls, and after each acknowledgement the states that a power loss may leave."""

    start: Callable[[], _Tree]
    log: list[Call]
    allowed: list[list[Documents]]


def run(count: int, seed: int, step: Step) -> str:
    """Lose power `count` times."""
    rng, recordings, further = random.Random(seed), 0, 0
    with tempfile.TemporaryDirectory(dir=in_memory()) as folder:
        root, after = Path(folder, "index"), Path(folder, "after")
        for number in range(count):
            if number % MOMENTS == 0:
                shutil.rmtree(root, ignore_errors=True)
                recording = _record(root, rng)
                recordings += 1
            moment = rng.randrange(len(recording.log) + 1)
            further += _lose_power(recording, moment, after, rng, f"seed {seed}, loss {number} after call {moment}")
            shutil.rmtree(after)
            step()
    return (
        f"{count:,} losses of power in {recordings} recordings: every acknowledged change was there, {further:,} that "
        "were under way had reached the disk whole, 0 torn"
    )


def _lose_power(recording: _Recording, moment: int, after: Path, rng: random.Random, when: str) -> bool:
    """Whether the index afterwards holds more than what was acknowledged."""
    tree, acknowledged = recording.start(), 0
    for call in recording.log[:moment]:
        if call is ACKNOWLEDGED:
            acknowledged += 1
        else:
            tree.replay(call)
    tree.write_after_loss(after, rng)
    allowed = recording.allowed[acknowledged]
    place = must_hold(Index(LocalStore(after)), allowed, when)
    if rng.random() < GO_ON:
        (plan,) = plans(allowed[place], rng.randrange(2**32))[:1]
        plan.run(Index(LocalStore(after)))
        must_hold(Index(LocalStore(after)), [plan.after], f"{when}, and another {plan.name}")
    return place > 0


def _record(root: Path, rng: random.Random) -> _Recording:
    documents = begin(Index(LocalStore(root)))
    kept = root.with_name("start")
    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(root, kept)
    recorder, before = _Recorder(root), documents
    if rng.random() < KILLED_FIRST:
        recorder.kill_at = rng.randrange(1, 100)
        with watched(root, recorder), contextlib.suppress(_Killed):
            plans(documents, rng.randrange(2**32))[0].run(Index(LocalStore(root)))
        recorder.kill_at = None
        documents = live_texts(Index(LocalStore(root)))
    own = plans(documents, rng.randrange(2**32))[:OPERATIONS]
    for plan in own:
        with watched(root, recorder):
            plan.run(Index(LocalStore(root)))
        recorder.log.append(ACKNOWLEDGED)
    states = [documents, *(plan.after for plan in own)]
    # What the killed writer left was acknowledged to nobody until another built on it.
    allowed = [[before, *states[:2]], *(states[at : at + 2] for at in range(1, len(states)))]
    return _Recording(lambda: _Tree.of(kept), recorder.log, allowed)

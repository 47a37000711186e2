"""Damage to every file of an index: found before an answer uses it, or in bytes that no answer uses.

Of each fifteen cases ten flip one bit. The others cut a file short, zero a page, swap two files, put a file or
manifest of an older version in place of a newer, or damage the copy in this machine's cache.
A case is good when opening and searching end in an error of ours, or give the undamaged answer bit for bit.
"""

from __future__ import annotations

import random
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from index_format.errors import IndexCorrupt, UnsupportedFormat
from index_format.index import Index
from index_format.store import LocalStore, MemoryStore
from serving.search import Hit, search
from serving.snapshot import open_snapshot
from tests.strategies import add, delete, make_recipe, token_vectors
from tests.torture.registry import Step

QUERY = token_vectors("lantern ember violin")
PAGE = 4096


@dataclass(frozen=True, slots=True)
class Sample:
    """An index in a directory, the files that its current version reads, and the right answer."""

    root: Path
    files: list[str]
    answer: list[Hit]


def make_sample(root: Path) -> Sample:
    """Five versions: three segments, two of them with deletions."""
    index = Index(LocalStore(root))
    recipe = make_recipe(index)
    add(index, recipe, {f"{number:03d}": "harbour lantern copper meadow violin" for number in range(600)})
    add(index, recipe, {"a": "ember glacier saffron", "b": "violin violin", "c": "copper"})
    add(index, recipe, {"a": "ember ember", "d": "lantern harbour meadow glacier saffron violin"})
    delete(index, "b", "007")
    delete(index, "c", "042")
    manifest = index.current()
    files = [one.key for one in manifest.files()] + index.store.list("manifests/")[-1:]
    return Sample(root, files, answer(root))


def answer(root: Path) -> list[Hit]:
    """What a search of the index finds, by a reader that has seen nothing of it before."""
    index = Index(LocalStore(root))
    return search(open_snapshot(index), QUERY, 20)


def run(count: int, seed: int, step: Step) -> str:
    """Damage `count` times, one case after the other, each repaired before the next."""
    rng = random.Random(seed)
    outcomes: Counter[tuple[str, str]] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        sample = make_sample(Path(folder, "index"))
        remote = _Remote(sample, Path(folder, "cache"))
        for case in range(count):
            kind, damage = KINDS[case % len(KINDS)]
            outcomes[kind, damage(sample, remote, rng)] += 1
            step()
        assert answer(sample.root) == sample.answer, f"seed {seed}: a repair went wrong"
    kinds = Counter(kind for kind, _ in outcomes.elements())
    unused = sum(number for (_, outcome), number in outcomes.items() if outcome == "unused")
    listed = ", ".join(f"{number:,} {kind}" for kind, number in kinds.items())
    return f"{listed}: {count - unused:,} detected, {unused:,} in bytes that no answer uses, 0 wrong answers"


def _judge(sample: Sample, root: Path, what: str) -> str:
    try:
        found = answer(root)
    except (IndexCorrupt, UnsupportedFormat):
        return "detected"
    assert found == sample.answer, f"a wrong answer after {what}"
    return "unused"


def _changed(sample: Sample, key: str, change: Callable[[bytearray], object], what: str) -> str:
    path = sample.root / key
    whole = path.read_bytes()
    damaged = bytearray(whole)
    change(damaged)
    path.write_bytes(damaged)
    try:
        return _judge(sample, sample.root, f"{what} of {key}") if damaged != whole else "unused"
    finally:
        path.write_bytes(whole)


def flip(sample: Sample, _remote: _Remote, rng: random.Random) -> str:
    """One bit of one file."""
    place = rng.random()
    bit = 1 << rng.randrange(8)

    def change(data: bytearray) -> None:
        data[int(place * len(data))] ^= bit

    return _changed(sample, rng.choice(sample.files), change, f"a flip of bit {bit} at {place}")


def cut(sample: Sample, _remote: _Remote, rng: random.Random) -> str:
    """The end of one file is missing, perhaps all of it."""
    place = rng.random()

    def change(data: bytearray) -> None:
        del data[int(place * len(data)) :]

    return _changed(sample, rng.choice(sample.files), change, f"a cut at {place}")


def zero(sample: Sample, _remote: _Remote, rng: random.Random) -> str:
    """A page of one file is zeros."""
    place = rng.random()

    def change(data: bytearray) -> None:
        start = int(place * len(data)) // PAGE * PAGE
        data[start : start + PAGE] = bytes(len(data[start : start + PAGE]))

    return _changed(sample, rng.choice(sample.files), change, f"zeros at {place}")


def swap(sample: Sample, _remote: _Remote, rng: random.Random) -> str:
    """Two whole files in each other's place, of one kind where there are two."""
    first = rng.choice(sample.files)
    kind = first.rsplit("/", 1)[-1][:6]
    twins = [key for key in sample.files if key != first and key.rsplit("/", 1)[-1][:6] == kind]
    second = rng.choice(twins or [key for key in sample.files if key != first])
    other = (sample.root / second).read_bytes()
    mine = (sample.root / first).read_bytes()
    (sample.root / second).write_bytes(mine)
    try:
        return _changed(sample, first, lambda data: data.__setitem__(slice(None), other), f"a swap with {second}")
    finally:
        (sample.root / second).write_bytes(other)


def replay(sample: Sample, _remote: _Remote, rng: random.Random) -> str:
    """A whole file of an older version under a newer one's key: the head's manifest, or a deletion vector."""
    newest = [key for key in sample.files if key.startswith("deletions/")] + sample.files[-1:]
    key = rng.choice(newest)
    others = [path for path in (sample.root / key).parent.iterdir() if path != sample.root / key]
    older = rng.choice(others or [sample.root / sample.files[0]]).read_bytes()
    return _changed(sample, key, lambda data: data.__setitem__(slice(None), older), "a replay")


def cached(sample: Sample, remote: _Remote, rng: random.Random) -> str:
    """The copy of one file in this machine's cache: noticed, and fetched anew."""
    path = rng.choice(remote.copies)
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
    path.write_bytes(damaged)
    assert remote.answer() == sample.answer, f"a wrong answer after a flip in the copy {path.name}"
    assert path.read_bytes() == whole, f"the copy {path.name} was not fetched anew"
    return "detected"


class _Remote:
    """The same index in a store that must be downloaded, and its cache."""

    def __init__(self, sample: Sample, cache: Path) -> None:
        self._store = MemoryStore()
        self._cache = cache
        for path in sorted(path for path in sample.root.rglob("*") if path.is_file()):
            self._store.create(path.relative_to(sample.root).as_posix(), path.read_bytes())
        assert self.answer() == sample.answer
        self.copies = sorted(path for path in cache.rglob("*") if path.is_file())

    def answer(self) -> list[Hit]:
        return search(open_snapshot(Index(self._store, self._cache)), QUERY, 20)


Damage = Callable[[Sample, _Remote, random.Random], str]
KINDS: list[tuple[str, Damage]] = [
    *[("bit flips", flip)] * 10,
    ("truncations", cut),
    ("zeroed pages", zero),
    ("swapped files", swap),
    ("replayed files", replay),
    ("flips in the cache", cached),
]

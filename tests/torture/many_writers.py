"""Eight processes commit at once, while a ninth collects garbage: one history, with each acknowledgement once.

python -m tests.torture.many_writers --writers 8 --commits 500
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
import time
from dataclasses import dataclass
from multiprocessing.synchronize import Event
from pathlib import Path

import msgspec

from index_format.change import Origin, commit_record, next_version
from index_format.errors import CommitConflict
from index_format.garbage import collect_garbage
from index_format.history import Retention
from index_format.index import Index
from index_format.manifest import Manifest
from tests.strategies import add, make_recipe

RETENTION = Retention(versions=20, days=0)


@dataclass(frozen=True)
class Figures:
    """What was acknowledged, and what is there."""

    acknowledged: int
    collections: int
    versions: int
    faults: list[str]
    seconds: float


def run(root: Path, writers: int, commits: int) -> Figures:
    """Let them loose on one directory, then compare what they were told with what is there."""
    index = Index.at(root)
    first = add(index, make_recipe(index), {"a": "harbour"})
    assert first is not None
    start = time.monotonic()
    context = multiprocessing.get_context("spawn")
    ended = context.Event()
    with context.Pool(writers + 1, initializer=_remember, initargs=(ended,)) as pool:
        collecting = pool.apply_async(_collect, [root])
        told = pool.starmap(_write, [(root, writer, commits) for writer in range(writers)], chunksize=1)
        ended.set()
        collections = collecting.get()
    acknowledged = [one for own in told for one in own]
    faults = _faults(index, first, acknowledged, collections)
    return Figures(len(acknowledged), collections, index.current().version, faults, time.monotonic() - start)


def _remember(ended: Event) -> None:
    global _ended  # a pool hands events over only so
    _ended = ended


_ended: Event


def _write(root: Path, writer: int, commits: int) -> list[tuple[int, str, str | None]]:
    """Version, commit id and parent of each acknowledged commit."""
    index = Index.at(root)
    return [_acknowledged(index, f"writer {writer}, commit {number}") for number in range(commits)]


def _acknowledged(index: Index, operation: str) -> tuple[int, str, str | None]:
    while True:
        try:
            made = index.change(lambda base: _another(base, operation))
        except CommitConflict:
            continue
        assert made is not None
        return made.version, made.commit.id, made.parent_commit


def _another(base: Manifest, operation: str) -> Manifest:
    """A change that always changes something that retention counts."""
    book = msgspec.structs.replace(base.codebook, trained_on_tokens=base.codebook.trained_on_tokens + 1)
    return next_version(base, commit_record(Origin(operation)), base.segments, codebook=book)


def _collect(root: Path) -> int:
    index, collections = Index.at(root), 0
    while not _ended.is_set():
        try:
            collections += bool(collect_garbage(index, RETENTION, time.time_ns() // 1_000_000).sizes)
        except CommitConflict:
            continue
        time.sleep(0.1)
    return collections


def _faults(
    index: Index, first: Manifest, acknowledged: list[tuple[int, str, str | None]], collections: int
) -> list[str]:
    faults = []
    head = index.current()
    by_version = {version: commit_id for version, commit_id, _ in acknowledged}
    if len(by_version) != len(acknowledged):
        faults.append("two commits were acknowledged as one version")
    if head.version != 1 + len(acknowledged) + collections:
        faults.append(f"{head.version} versions of {len(acknowledged)} + {collections} + 1 acknowledged ones")
    if head.codebook.trained_on_tokens != first.codebook.trained_on_tokens + len(acknowledged):
        faults.append("a change was lost or made twice")
    for version, _, parent in acknowledged:
        if by_version.get(version - 1, parent) != parent:
            faults.append(f"version {version} does not follow version {version - 1}")
    there = {version: index.version(version).commit.id for version in filter(head.retains, index.versions())}
    if any(by_version.get(version, commit_id) != commit_id for version, commit_id in there.items()):
        faults.append("a version is not the one that was acknowledged")
    return faults


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--writers", type=int, default=8)
    parser.add_argument("--commits", type=int, default=500)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        figures = run(Path(name), chosen.writers, chosen.commits)
    print(
        f"{chosen.writers} writers x {chosen.commits} commits: {figures.acknowledged} acknowledged, "
        f"{figures.collections} collections, {figures.versions} versions, {len(figures.faults)} faults "
        f"in {figures.seconds:.0f} s"
    )
    for fault in figures.faults:
        print(fault)
    sys.exit(bool(figures.faults))


if __name__ == "__main__":
    main()

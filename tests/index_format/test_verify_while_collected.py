"""`verify` beside a process that compacts and collects garbage: what goes meanwhile is no fault."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from index_format import keys, schema
from index_format.compaction import CompactionPolicy, compact_index
from index_format.garbage import collect_garbage
from index_format.history import Retention
from index_format.index import Index
from index_format.store import LocalStore
from index_format.verify import verify


def replaced_and_collected(root: Path) -> None:
    """What another process may do at any moment: all segments become one, and nothing older stays."""
    index = Index.at(root)
    compact_index(index, CompactionPolicy(alike=2, deleted_share=0.01))
    collect_garbage(index, Retention(versions=1, days=0), time.time_ns() // 1_000_000 + 60_000)


class Interrupted(LocalStore):
    """A store whose other users do something when a certain object is looked up."""

    def __init__(self, root: Path, looked_up: Callable[[str], bool], then: Callable[[], None]) -> None:
        super().__init__(root)
        self._looked_up, self._then = looked_up, then

    def _interrupt(self, key: str) -> None:
        if self._looked_up(key):
            self._looked_up = lambda _: False
            self._then()

    def get(self, key: str) -> bytes:
        self._interrupt(key)
        return super().get(key)

    def local_path(self, key: str) -> Path:
        self._interrupt(key)
        return super().local_path(key)


@pytest.mark.parametrize("part", [keys.manifest(1), "documents.parquet", "passages.parquet", "codes.npz", "deletions/"])
def test_a_version_that_is_collected_while_it_is_verified_has_no_faults(root: Path, part: str) -> None:
    """Its files go one after the other, whatever was checked by then; the same with all of them still wanted."""
    store = Interrupted(root, lambda key: part in key, lambda: replaced_and_collected(root))
    assert list(verify(store, [1, 2, 3])) == []
    assert Index.at(root).versions() == [4, 5]


@pytest.mark.parametrize("module", ["files", "schema"])
@pytest.mark.parametrize("collected", [True, False])
def test_a_file_that_vanishes_while_it_is_checked_is_a_fault_unless_it_was_collected(
    root: Path, monkeypatch: pytest.MonkeyPatch, module: str, collected: bool
) -> None:
    """Between its hash and its rows, or between its metadata and its pages."""
    done: list[Path] = []

    def vanish(path: Path) -> None:
        if path.name == "passages.parquet" and not done:
            done.append(path)
            replaced_and_collected(root) if collected else path.unlink()

    def opened(path: Path, rows: int | None = None) -> pq.ParquetFile:
        if module == "files":
            vanish(path)
        file = open_parquet(path, rows)
        vanish(path)
        return file

    open_parquet = schema.open_parquet
    monkeypatch.setattr(schema, "open_parquet", opened)
    found = [(fault.file, fault.problem) for fault in verify(LocalStore(root), [3])]
    assert found == ([] if collected else [(done[0].relative_to(root).as_posix(), f"{done[0]} is gone.")])

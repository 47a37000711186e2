"""A short round of many writers; `make torture` does the long one."""

from __future__ import annotations

from pathlib import Path

from tests.torture.many_writers import run


def test_processes_that_commit_at_once_make_one_history_with_each_acknowledgement_once(tmp_path: Path) -> None:
    """Four writers and a collector on one directory."""
    figures = run(tmp_path / "index", writers=4, commits=12)
    assert figures.faults == []
    assert figures.acknowledged == 48

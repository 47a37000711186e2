"""Indexes that were written long ago: this release opens them, finds no fault, and answers as was answered then."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from index_format.index import Index
from index_format.verify import verify
from tests.golden.make_golden import answers
from tests.index_format.plain_reader import read_plainly

GOLDEN = sorted(path for path in Path(__file__).parent.glob("v*/*") if path.is_dir())


def test_there_is_a_golden_index_for_each_number_of_bits() -> None:
    """The test below runs."""
    assert [f"{path.parent.name}/{path.name}" for path in GOLDEN] == [f"v1/{bits}-bits" for bits in (1, 2, 4, 8)]


@pytest.mark.parametrize("root", GOLDEN, ids=lambda path: path.name)
def test_a_golden_index_is_read_and_answers_as_ever(root: Path) -> None:
    """Every version: no fault, the same hits, and scores that are the same bit for bit."""
    index = Index.at(root)
    assert list(verify(index.store, index.versions())) == []
    assert answers(index) == json.loads(root.with_suffix(".json").read_text(encoding="utf-8"))
    assert read_plainly(root).manifest["version"] == index.versions()[-1]

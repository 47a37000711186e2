"""What most tests of the format begin with: an empty index of words, in memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from index_format.index import Index
from index_format.store import MemoryStore
from tests.strategies import Recipe, make_recipe


@pytest.fixture
def index(tmp_path: Path) -> Index:
    """Without a version yet."""
    return Index(MemoryStore(), tmp_path)


@pytest.fixture
def recipe(index: Index) -> Recipe:
    """The codec and the codebook that `index` has."""
    return make_recipe(index)

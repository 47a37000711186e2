"""What most tests of the format begin with: an empty index of words in memory, or a sound one in a directory."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from index_format.index import Index
from index_format.store import MemoryStore
from tests.strategies import Recipe, add, delete, make_recipe


@pytest.fixture
def index(tmp_path: Path) -> Index:
    """Without a version yet."""
    return Index(MemoryStore(), tmp_path)


@pytest.fixture
def recipe(index: Index) -> Recipe:
    """The codec and the codebook that `index` has."""
    return make_recipe(index)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three versions of two segments, one of them with deletions."""
    index = Index.at(tmp_path_factory.mktemp("sound"))
    recipe = make_recipe(index)
    add(
        index, recipe, {"a": "harbour lantern", "b": "copper meadow violin ember glacier saffron", "c": "saffron ember"}
    )
    add(index, recipe, {"d": "violin violin"})
    delete(index, "b")
    return Path(index.address)


@pytest.fixture
def root(sound: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(sound, tmp_path / "index"))

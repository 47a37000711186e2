"""A short run of every torture; `make torture` runs the long ones."""

from __future__ import annotations

import pytest

from tests.torture.registry import TORTURES

SEED = 20261122


@pytest.mark.parametrize("name", [name for name, torture in TORTURES.items() if torture.smoke])
def test_a_short_torture_finds_nothing(name: str) -> None:
    """The same seed each time, so that a failure is the change's."""
    assert TORTURES[name].run(TORTURES[name].smoke, SEED)

"""A short round of kills of flows; `python -m tests.torture flow-kills` kills workers and the Prefect server too."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.prefect_server import PrefectServer
from tests.torture.flow_kills import kill_flow, kill_flows, stop_flow

SEED = 20261123


@pytest.mark.slow
def test_a_killed_run_is_continued_and_a_late_one_changes_nothing(server: PrefectServer, tmp_path: Path) -> None:
    """kill -9 at random moments; and a zombie that goes on when another run has done its work."""
    kill_flows(tmp_path, server, {"flow": kill_flow, "late": stop_flow}, 4, SEED)

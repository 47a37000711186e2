"""A short round of kills; `python -m tests.torture flow-kills` kills workers too, a hundred times in all."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.prefect_server import PrefectServer
from tests.torture.flow_kills import kill_flow, kill_flows, server_killer, stop_flow
from tests.torture.flow_processes import MortalServer

SEED = 20261123


@pytest.mark.slow
def test_a_killed_run_is_continued_and_a_late_one_changes_nothing(server: PrefectServer, tmp_path: Path) -> None:
    """kill -9 at random moments; and a zombie that goes on when another run has done its work."""
    kill_flows(tmp_path, server, {"flow": kill_flow, "late": stop_flow}, 4, SEED)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_prefect_server_that_is_killed_costs_no_work(tmp_path: Path) -> None:
    """In the middle of a build: the same flow again publishes all documents once, by what is finished."""
    server = MortalServer(tmp_path)
    try:
        kill_flows(tmp_path, server.view, {"server": server_killer(server)}, 1, SEED)
    finally:
        server.kill()

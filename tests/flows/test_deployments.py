"""The flows as an operator runs them: a Prefect server, deployments from prefect.yaml, and a worker."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from index_format.index import Index
from tests.prefect_server import PROJECT, PrefectServer


def _run(server: PrefectServer, deployment: str, parameters: dict[str, object]) -> dict[str, object]:
    """Start a deployment, let a worker take it, and return the flow run."""
    printed = server.prefect("deployment", "run", deployment, "--params", json.dumps({"parameters": parameters}))
    worker = [str(Path(sys.executable).with_name("prefect")), "worker", "start", "--pool", "colonnade", "--run-once"]
    subprocess.run(worker, cwd=PROJECT, env=server.environment, capture_output=True, timeout=240, check=True)
    run_id = next(line.split()[-1] for line in printed.splitlines() if "UUID" in line)
    return httpx.get(f"{server.api}/flow_runs/{run_id}", timeout=30).json()


@pytest.mark.slow
def test_every_flow_deploys_from_prefect_yaml_and_runs_on_a_worker(server: PrefectServer, tmp_path: Path) -> None:
    """`prefect deploy --all`, a worker, and one run each of all flows."""
    index = tmp_path / "index"
    (tmp_path / "first.jsonl").write_text(
        '{"id": "a", "text": "Bees make honey."}\n{"id": "b", "text": "Cats sleep."}\n'
    )
    (tmp_path / "second.jsonl").write_text('{"id": "c", "text": "Dogs bark at night."}\n')
    server.prefect("work-pool", "create", "colonnade", "--type", "process")
    server.prefect("deploy", "--all")

    def source(name: str) -> dict[str, str]:
        return {"location": str(tmp_path / name)}

    bees = {"op": "prefix", "column": "id", "value": "a"}
    runs = [
        _run(server, "build-index/on-demand", {"source": source("first.jsonl"), "index": str(index)}),
        _run(server, "add-documents/on-demand", {"source": source("second.jsonl"), "index": str(index)}),
        _run(server, "delete-documents/on-demand", {"index": str(index), "filter": bees}),
        _run(server, "compact-index/on-demand", {"index": str(index)}),
        _run(server, "collect-garbage/on-demand", {"index": str(index), "keep_versions": 1, "delete": True}),
    ]

    assert [run["state_type"] for run in runs] == ["COMPLETED"] * 5
    assert Index.at(index).versions() == [1, 2, 3, 4]
    assert Index.at(index).current().documents == 2


@pytest.mark.slow
def test_the_form_of_a_flow_refuses_nonsense(server: PrefectServer) -> None:
    """The server checks parameters against the flow's model before a run exists."""
    deployments = httpx.post(f"{server.api}/deployments/filter", json={}, timeout=30).json()
    build = next(one for one in deployments if one["entrypoint"].endswith(":build_index"))
    answer = httpx.post(
        f"{server.api}/deployments/{build['id']}/create_flow_run",
        json={"parameters": {"parameters": {"index": "x", "source": {"location": "y"}, "bits": 5}}},
        timeout=30,
    )
    assert answer.status_code == 409
    assert "bits" in answer.text

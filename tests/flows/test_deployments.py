"""The flows as an operator runs them: a Prefect server, deployments from prefect.yaml, and workers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from index_format.index import Index
from tests.browser import CHROMIUM, browser
from tests.prefect_server import PROJECT, PrefectServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PREFECT = str(Path(sys.executable).with_name("prefect"))
RUN_SECONDS = 240  # a busy machine starts a process slowly
BUILD_ON_POOL = """
from tasks import stage_documents
from colonnade import cli
stage_documents.SHARD_DOCUMENTS = 4
cli.main()
"""


@pytest.fixture(scope="module")
def deployed(server: PrefectServer) -> PrefectServer:
    """The server with the work pool, all deployments and the automation."""
    server.prefect("work-pool", "create", "colonnade", "--type", "process")
    server.prefect("deploy", "--all")
    return server


@pytest.fixture(scope="module")
def working(deployed: PrefectServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    """The same with a worker for all queues."""
    with worker(deployed, tmp_path_factory.mktemp("worker") / "log"):
        yield deployed


@contextmanager
def worker(server: PrefectServer, log: Path) -> Iterator[None]:
    """A worker that looks for work every second, in a process group of its own."""
    command = [PREFECT, "worker", "start", "--pool", "colonnade"]
    environment = {**server.environment, "PREFECT_WORKER_QUERY_SECONDS": "1", "PYTHONPATH": str(PROJECT)}
    with log.open("w") as output:
        process = subprocess.Popen(
            command, cwd=PROJECT, env=environment, stdout=output, stderr=output, start_new_session=True
        )
        try:
            yield
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(30)


def ask(server: PrefectServer, path: str, body: object = None) -> Any:
    """What the server answers to a question that it does not refuse."""
    answer = say(server, "GET" if body is None else "POST", path, body)
    assert answer.is_success, answer.text
    return answer.json()


def say(server: PrefectServer, method: str, path: str, body: object = None) -> httpx.Response:
    """The server's answer; one that says 503, or nothing in time, is busy (its SQLite is locked) and means later."""
    for _ in range(60):
        with suppress(httpx.TransportError):
            answer = httpx.request(method, server.api + path, json=body, timeout=30)
            if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                return answer
        time.sleep(0.5)
    raise AssertionError(f"{path}: the server stayed busy")


def deployments(server: PrefectServer) -> dict[str, dict[str, Any]]:
    """All deployments, by the name of their flow's function."""
    found = ask(server, "/deployments/filter", {})
    return {one["entrypoint"].partition(":")[2]: one for one in found}


def begin(server: PrefectServer, flow: str, **parameters: object) -> str:
    """Start a run of a deployment, as the UI does, and return its id."""
    place = f"/deployments/{deployments(server)[flow]['id']}/create_flow_run"
    return str(ask(server, place, {"parameters": {"parameters": parameters}})["id"])


def ended(server: PrefectServer, *runs: str) -> list[str]:
    """The states that runs end in."""
    deadline = time.monotonic() + RUN_SECONDS
    while time.monotonic() < deadline:
        states = [ask(server, f"/flow_runs/{run}")["state_type"] for run in runs]
        if not {"SCHEDULED", "PENDING", "RUNNING"} & set(states):
            return states
        time.sleep(0.5)
    raise AssertionError(f"{states} after {RUN_SECONDS} seconds")


def test_every_flow_deploys_from_prefect_yaml_and_runs_on_a_worker(working: PrefectServer, tmp_path: Path) -> None:
    """One run each of all flows, one of them by its schedule."""
    index = str(tmp_path / "index")
    (tmp_path / "first.jsonl").write_text(
        '{"id": "a", "text": "Bees make honey."}\n{"id": "b", "text": "Cats sleep."}\n'
    )
    (tmp_path / "second.jsonl").write_text('{"id": "c", "text": "Dogs bark at night."}\n')

    def source(name: str) -> dict[str, str]:
        return {"location": str(tmp_path / name)}

    bees = {"op": "prefix", "column": "id", "value": "a"}
    first = begin(working, "build_index", source=source("first.jsonl"), index=index)
    assert ended(working, first) == ["COMPLETED"]
    schedule(working, "verify_index", index=index)
    changes = [
        begin(working, "add_documents", source=source("second.jsonl"), index=index),
        begin(working, "delete_documents", index=index, filter=bees),
    ]
    assert ended(working, *changes) == ["COMPLETED"] * 2
    assert (Index.at(index).current().version, Index.at(index).current().documents) == (3, 2)
    upkeep = [
        begin(working, "sync_index", index=index, source=source("second.jsonl"), most_deleted=0.5),
        begin(working, "compact_index", index=index),
        begin(working, "evaluate_index", index=index),
        begin(working, "collect_garbage", index=index, keep_versions=1, delete=True),
        begin(working, "reindex_index", index=index),
    ]
    assert ended(working, *upkeep) == ["COMPLETED"] * 5
    assert Index.at(index).current().documents == 1
    assert ended(working, scheduled_run(working, "verify_index")) == ["COMPLETED"]


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_the_ui_shows_a_run_what_it_did_and_the_form_of_a_flow(working: PrefectServer, tmp_path: Path) -> None:
    """In a real browser: the page of a build, the table of what it did, and the form with our own words."""
    ui = working.api.removesuffix("/api")
    asked = {"flows": {"name": {"any_": ["build-index"]}}, "flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}}}
    run = ask(working, "/flow_runs/filter", asked)[0]
    wanted = {"artifacts": {"key": {"any_": ["summary"]}, "flow_run_id": {"any_": [run["id"]]}}}
    summary = ask(working, "/artifacts/filter", wanted)[0]
    with browser(tmp_path / "profile") as page:
        page.open(f"{ui}/runs/flow-run/{run['id']}")
        page.wait_for(f"document.body.outerHTML.includes({json.dumps(run['name'])})")
        page.wait_for("document.body.outerHTML.includes('Completed')")
        page.open(f"{ui}/artifacts/artifact/{summary['id']}")
        page.wait_for("document.body.outerHTML.includes('tokens a second: encode')")
        page.open(f"{ui}/deployments/deployment/{deployments(working)['sync_index']['id']}/run")
        page.wait_for("document.body.outerHTML.includes('Share of the documents that may be missing from the source')")


def schedule(server: PrefectServer, flow: str, **parameters: object) -> None:
    """Give a deployment a schedule that fires in 20 seconds, or soon after."""
    wanted = [
        {
            "schedule": {"interval": 20},
            "active": True,
            "max_scheduled_runs": 1,
            "parameters": {"parameters": parameters},
        }
    ]
    ask(server, f"/deployments/{deployments(server)[flow]['id']}/schedules", wanted)


def scheduled_run(server: PrefectServer, flow: str) -> str:
    """The first run that a schedule started; no more come after it."""
    deployment = deployments(server)[flow]
    asked = {"deployments": {"id": {"any_": [deployment["id"]]}}, "sort": "EXPECTED_START_TIME_ASC", "limit": 1}
    deadline = time.monotonic() + RUN_SECONDS
    while not (runs := ask(server, "/flow_runs/filter", asked)) or runs[0]["state_type"] == "SCHEDULED":
        assert time.monotonic() < deadline, "the schedule started no run"
        time.sleep(0.5)
    assert runs[0]["auto_scheduled"]
    for one in deployment["schedules"]:
        if not one["slug"]:
            # Gone already is as good: a server that was busy may have done what it could not say.
            answer = say(server, "DELETE", f"/deployments/{deployment['id']}/schedules/{one['id']}")
            assert answer.is_success or answer.status_code == httpx.codes.NOT_FOUND, answer.text
    return str(runs[0]["id"])


def test_schedules_are_there_paused_and_the_form_refuses_nonsense(deployed: PrefectServer) -> None:
    """Nothing runs before a person said on which index; parameters are checked before a run exists."""
    found = deployments(deployed)
    slugs = {flow: [one["slug"] for one in found[flow]["schedules"] if one["slug"]] for flow in found}
    assert {flow: one for flow, one in slugs.items() if one} == {
        "sync_index": ["every-five-minutes"],
        "compact_index": ["nightly"],
        "verify_index": ["nightly"],
        "evaluate_index": ["weekly"],
    }
    assert not [one for flow in found for one in found[flow]["schedules"] if one["slug"] and one["active"]]
    nonsense = {"parameters": {"parameters": {"index": "x", "source": {"location": "y"}, "bits": 5}}}
    answer = say(deployed, "POST", f"/deployments/{found['build_index']['id']}/create_flow_run", nonsense)
    assert answer.status_code == 409
    assert "bits" in answer.text


def test_a_run_without_heartbeats_is_marked_as_crashed_by_the_automation(deployed: PrefectServer) -> None:
    """The automation of the project is one that this server takes."""
    deployed.prefect("automation", "create", "--from-file", "automations.yaml")
    found = ask(deployed, "/automations/filter", {})
    assert ("colonnade-crashed-runs", True) in [(one["name"], one["enabled"]) for one in found]


def test_shards_are_encoded_by_runs_elsewhere_and_a_killed_one_costs_its_shard(
    working: PrefectServer, tmp_path: Path
) -> None:
    """Processes that share only the store; one is killed in the middle, and its rest goes to another."""
    source, index = tmp_path / "documents.jsonl", tmp_path / "index"
    rows = [{"id": f"{one}", "text": f"The fox number {one} jumps over the lazy dog. " * 12} for one in range(24)]
    source.write_text("\n".join(map(json.dumps, rows)))
    environment = {**working.environment, "COLONNADE_ENCODE_ON": "pool:2", "PYTHONPATH": str(PROJECT)}
    command = [sys.executable, "-c", BUILD_ON_POOL, "build", str(source), str(index)]
    build = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    victim = first_receipt(working, index, build)
    os.kill(victim, signal.SIGKILL)
    _, said = build.communicate(timeout=RUN_SECONDS)
    assert build.returncode == 0, said
    made = Index.at(index).current()
    assert (made.version, made.documents, len(made.segments)) == (1, 24, 6)
    encoded = {path.parent.name for path in index.rglob("codes.npz")}
    assert {one.id for one in made.segments} <= encoded
    assert len(encoded) <= 7, "more than the shard in hand was encoded twice"
    assert not list((index / "staging").rglob("*.*"))


def first_receipt(server: PrefectServer, index: Path, build: subprocess.Popen[str]) -> int:
    """Wait until the first shard is finished. Returns the process of a flow run that encodes."""
    deadline = time.monotonic() + RUN_SECONDS
    while not list((index / "receipts").glob("*.json")):
        assert build.poll() is None, build.communicate()
        assert time.monotonic() < deadline, "no shard was finished"
        time.sleep(0.02)
    asked = {"flow_runs": {"state": {"type": {"any_": ["RUNNING"]}}}, "flows": {"name": {"any_": ["encode-shards"]}}}
    runs = ask(server, "/flow_runs/filter", asked)
    return next(int(run["infrastructure_pid"].rpartition(":")[2]) for run in runs if run["infrastructure_pid"])

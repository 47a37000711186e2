"""The flows as an operator runs them: a Prefect server, deployments from prefect.yaml, and workers."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from index_format.index import Index
from tests.browser import MAY_SKIP, browser
from tests.prefect_server import PROJECT, PrefectServer, kill_worker, started_by
from tests.torture.flow_kills import ENCODER
from tests.torture.flow_processes import RunningFlow, Work
from tests.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PREFECT = str(Path(sys.executable).with_name("prefect"))
VARIABLES = {"colonnade_index": "/data/index", "colonnade_source": "/data/documents.parquet"}
RUN_SECONDS = 240  # a busy machine starts a process slowly
ZOMBIE = """
import time
from prefect import flow

@flow(name="zombie")
def wait():
    time.sleep(600)

wait()
"""


@pytest.fixture(scope="module")
def deployed(server: PrefectServer) -> Iterator[PrefectServer]:
    """The server with the work pool, the variables that schedules need, and all deployments."""
    server.prefect("work-pool", "create", "colonnade", "--type", "process")
    for name, value in VARIABLES.items():
        server.prefect("variable", "set", name, value, "--overwrite")
    server.prefect("deploy", "--all")
    yield server
    for name in VARIABLES:
        server.prefect("variable", "unset", name)


@pytest.fixture(scope="module")
def working(deployed: PrefectServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    """The same with a worker for all queues but that of shards."""
    queues = ("--work-queue", "index", "--work-queue", "upkeep")
    with worker(deployed, tmp_path_factory.mktemp("worker") / "log", *queues):
        yield deployed


@contextmanager
def worker(server: PrefectServer, log: Path, *options: str) -> Iterator[int]:
    """The process of a worker that looks for work every second."""
    command = [PREFECT, "worker", "start", "--pool", "colonnade", *options]
    environment = {**server.environment, "PREFECT_WORKER_QUERY_SECONDS": "1", "PYTHONPATH": str(PROJECT)}
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=PROJECT, env=environment, stdout=output, stderr=output)
        try:
            yield process.pid
        finally:
            kill_worker(process.pid)
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

    def states() -> list[str]:
        found = [ask(server, f"/flow_runs/{run}")["state_type"] for run in runs]
        return [] if {"SCHEDULED", "PENDING", "RUNNING"} & set(found) else found

    return until(states, "the runs have ended", RUN_SECONDS, every=0.5)


def completed(server: PrefectServer, flow: str, **parameters: object) -> None:
    """Run a deployment to its good end; one that Prefect lost is run again, as an operator would.

    Its SQLite refuses to write while others do ("database is locked"), at once or after a minute, and a run whose
    state it did not take ends as crashed, whatever the flow did.
    """
    for _ in range(3):
        (state,) = ended(server, begin(server, flow, **parameters))
        if state != "CRASHED":
            break
    assert state == "COMPLETED", f"{flow}: {state}"


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
    completed(working, "build_index", source=source("first.jsonl"), index=index)
    schedule(working, "verify_index", index=index)
    completed(working, "add_documents", source=source("second.jsonl"), index=index)
    completed(working, "delete_documents", index=index, filter=bees)
    assert (Index.at(index).current().version, Index.at(index).current().documents) == (3, 2)
    completed(working, "sync_index", index=index, source=source("second.jsonl"), most_deleted=0.5)
    completed(working, "compact_index", index=index)
    completed(working, "evaluate_index", index=index)
    completed(working, "collect_garbage", index=index, keep_versions=1, delete=True)
    completed(working, "reindex_index", index=index)
    assert Index.at(index).current().documents == 1
    (state,) = ended(working, scheduled_run(working, "verify_index"))
    if state == "CRASHED":  # it was started, and lost as `completed` says
        completed(working, "verify_index", index=index)
    else:
        assert state == "COMPLETED"


@pytest.mark.skipif(MAY_SKIP, reason="chromium is not installed")
def test_the_ui_shows_a_run_what_it_did_and_the_form_of_a_flow(working: PrefectServer, tmp_path: Path) -> None:
    """In a real browser: the page of a build, the table of what it did, and the form with our own words."""
    ui = working.api.removesuffix("/api")
    (tmp_path / "bees.jsonl").write_text('{"id": "a", "text": "Bees make honey."}\n')
    # Other tests' builds are on this server too, and some of those encode nothing.
    index = str(tmp_path / "index")
    completed(working, "build_index", source={"location": str(tmp_path / "bees.jsonl")}, index=index)
    asked = {
        "deployments": {"id": {"any_": [deployments(working)["build_index"]["id"]]}},
        "flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}},
        "sort": "START_TIME_DESC",
    }
    run = next(
        one for one in ask(working, "/flow_runs/filter", asked) if one["parameters"]["parameters"]["index"] == index
    )
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

    def started() -> list[dict[str, Any]]:
        return [run for run in ask(server, "/flow_runs/filter", asked) if run["state_type"] != "SCHEDULED"]

    (run,) = until(started, "the schedule started a run", RUN_SECONDS, every=0.5)
    assert run["auto_scheduled"]
    for one in deployment["schedules"]:
        if not one["slug"]:
            # Gone already is as good: a server that was busy may have done what it could not say.
            answer = say(server, "DELETE", f"/deployments/{deployment['id']}/schedules/{one['id']}")
            assert answer.is_success or answer.status_code == httpx.codes.NOT_FOUND, answer.text
    return str(run["id"])


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


def test_schedules_work_on_what_the_variables_name(deployed: PrefectServer) -> None:
    """As they were when it was deployed; each schedule's parameters are ones that its flow takes."""
    found = deployments(deployed)
    resolved = {flow: one["parameters"] for flow in found for one in found[flow]["schedules"] if one["slug"]}
    index, source = VARIABLES["colonnade_index"], {"location": VARIABLES["colonnade_source"]}
    assert resolved.pop("sync_index") == {"parameters": {"index": index, "source": source}}
    assert list(resolved.values()) == [{"parameters": {"index": index}}] * 3


def test_a_run_without_heartbeats_is_marked_as_crashed_by_the_automation(deployed: PrefectServer, zombie: str) -> None:
    """A process that was killed says nothing; ten seconds after its last heartbeat here, ten minutes as shipped."""
    assert ended(deployed, zombie) == ["CRASHED"]
    assert "run the deployment again" in ask(deployed, f"/flow_runs/{zombie}")["state"]["message"]
    deployed.prefect("automation", "create", "--from-file", "automations.yaml")
    found = {one["name"]: one for one in ask(deployed, "/automations/filter", {})}
    shipped = found["colonnade-crashed-runs"]
    assert (shipped["enabled"], shipped["trigger"]["within"]) == (True, 600)


@pytest.fixture(scope="module")
def zombie(server: PrefectServer) -> str:
    """A flow run that was killed after its first heartbeat; the automation watches it with less patience."""
    (wanted,) = yaml.safe_load((PROJECT / "automations.yaml").read_text())["automations"]
    of_this_flow = {"prefect.resource.role": "flow", "prefect.resource.name": "zombie"}
    wanted |= {"name": "zombies", "trigger": {**wanted["trigger"], "match_related": of_this_flow, "within": 10}}
    ask(server, "/automations/", wanted)
    process = subprocess.Popen([sys.executable, "-c", ZOMBIE], env=server.environment)
    try:
        beats = {"filter": {"event": {"name": ["prefect.flow-run.heartbeat"]}, "related": {"labels": of_this_flow}}}
        heard = partial(ask, server, "/events/filter", beats)
        found = until(lambda: heard()["events"], "a heartbeat came", RUN_SECONDS, every=0.5)
    finally:
        process.kill()
        process.wait(30)
    return str(found[0]["resource"]["prefect.resource.id"]).removeprefix("prefect.flow-run.")


def test_shards_are_encoded_by_workers_elsewhere_and_a_killed_one_costs_its_shard(
    deployed: PrefectServer, tmp_path: Path
) -> None:
    """Two workers that share only the store; one is killed in the middle, and its rest goes to the other."""
    source, index, log = tmp_path / "documents.jsonl", tmp_path / "index", tmp_path / "log"
    rows = [{"id": f"{at}", "text": f"The fox number {at} jumps over the lazy dog. " * 400} for at in range(24)]
    source.write_text("\n".join(map(json.dumps, rows)))
    work = Work("build", {"source": {"location": str(source)}, "index": str(index), "encoder": ENCODER}, {})
    encoding = ("--work-queue", "encode", "--limit", "1")
    with worker(deployed, tmp_path / "1", *encoding) as one, worker(deployed, tmp_path / "2", *encoding) as other:
        build = RunningFlow(deployed, work, log, encode_on="pool:2")
        try:
            run, process = first_receipt(deployed, index)
            kill_worker(one if process in started_by(one) else other)
            # As the automation does in ten minutes, and the build itself after five without a shard.
            crashed = {"state": {"type": "CRASHED", "name": "Crashed"}, "force": True}
            ask(deployed, f"/flow_runs/{run}/set_state", crashed)
            code, _ = build.ended(RUN_SECONDS)
        finally:
            build.kill()
    assert code == 0, log.read_text()
    made = Index.at(index).current()
    assert (made.version, made.documents, len(made.segments)) == (1, 24, 8)
    encoded = {path.parent.name for path in index.rglob("codes.npz")}
    assert {one.id for one in made.segments} <= encoded
    assert len(encoded) <= 9, "more than the shard in hand was encoded twice"
    assert not list((index / "staging").rglob("*.*"))


def first_receipt(server: PrefectServer, index: Path) -> tuple[str, int]:
    """Wait until the first shard is finished. Returns a flow run that encodes, and its process."""
    asked = {"flow_runs": {"state": {"type": {"any_": ["RUNNING"]}}}, "flows": {"name": {"any_": ["encode-shards"]}}}

    def running() -> list[dict[str, Any]]:
        return [run for run in ask(server, "/flow_runs/filter", asked) if run["infrastructure_pid"]]

    run = until(running, "a run encodes", RUN_SECONDS)[0]
    until(lambda: list((index / "receipts").glob("*.json")), "a shard is finished", RUN_SECONDS)
    return str(run["id"]), int(run["infrastructure_pid"].rpartition(":")[2])

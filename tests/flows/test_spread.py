"""Where shards are encoded, by one setting, and that nobody waits for what the flow itself holds."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from pathlib import Path
from types import SimpleNamespace

import pytest
from prefect import get_client, task
from prefect.client.schemas.objects import State, StateType
from prefect.states import Scheduled

from flows import spread
from flows.build_index import build_index
from flows.encode_shards import encode_shards as encode_flow
from flows.parameters import BuildParameters
from flows.spread import SETTING, Place, encode_shards
from index_format import keys
from index_format.errors import InputError
from index_format.index import Index
from index_format.segment import SegmentContent
from tasks import device, encode_shard, evaluate, progress
from tasks.device import Places
from tasks.encode_shard import Recipe
from tasks.stage_documents import Shard
from tests.flows.conftest import Write
from tests.prefect_server import PROJECT, PrefectServer, kill_worker, started_by
from tests.strategies import make_recipe
from tests.torture.flow_kills import ENCODER
from tests.torture.flow_processes import RunningFlow, Work
from tests.waiting import until

QUIET_RAY = {"RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0", "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
WHAT_RAY_GIVES = """
import ray
from prefect import task

from flows import spread
from index_format.manifest import FileRef
from tasks.stage_documents import Shard

@task
def given(shard: Shard, recipe: None) -> float:
    return ray.get_runtime_context().get_assigned_resources().get("GPU", 0.0)

spread.encode_shard_task = given
file = FileRef(key="staging/none", size=0, sha256="")
shards = [Shard(file=file, content=f"{at}", documents=1, characters=1) for at in range(2)]
ray.init(num_cpus=1, num_gpus=1, include_dashboard=False)
print(spread._encode_by_runner(shards, None, spread.Place("ray")))
"""


def test_the_setting_says_where_and_refuses_nonsense() -> None:
    """In this process, in several, on a pool, or on Ray."""
    assert Place.of("here") == Place("here")
    assert Place.of("processes:4") == Place("processes", 4)
    assert Place.of("pool:8") == Place("pool", 8)
    assert Place.of("ray") == Place("ray")
    assert Place.of("ray:ray://head:10001") == Place("ray", address="ray://head:10001")
    for wrong in ("", "pool", "pool:0", "processes:x", "dask"):
        with pytest.raises(InputError, match=f"{SETTING}: expected here, processes:N"):
            Place.of(wrong)


@pytest.fixture
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], bool]:
    """A GPU for encoders to claim, which they do not notice that they lack. Says whether it is free."""
    pretended = SimpleNamespace(is_available=lambda: True, set_device=lambda _number: None)
    monkeypatch.setattr(device, "torch", SimpleNamespace(cuda=pretended, get_num_threads=lambda: 1))
    monkeypatch.setattr(device, "_places", Places(tmp_path, lambda: ["gpu"]))

    def free() -> bool:
        another = Places(tmp_path, lambda: ["gpu"])
        with another.kept():
            return another._taken() is not None

    return free


def test_a_flow_lets_the_gpu_go_before_others_encode(
    prefect_here: None, gpu: Callable[[], bool], write_texts: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It claimed it to calibrate the codec. Its processes would wait for it, and it for them."""
    found = []

    def encode_by_runner(shards: object, recipe: object, place: Place) -> None:
        found.append((place.workers, gpu()))

    def encode(*given: object) -> SegmentContent:
        found.append(gpu())
        return content(*given)

    content = encode_shard._content
    monkeypatch.setenv(SETTING, "processes:2")
    monkeypatch.setattr(spread, "_encode_by_runner", encode_by_runner)
    monkeypatch.setattr(encode_shard, "_content", encode)
    build_index(BuildParameters(source=write_texts({"a": "Bees make honey."}), index=str(tmp_path / "index")))
    assert found == [(2, True), False]
    assert gpu()


def test_an_evaluation_by_questions_claims_the_gpu_for_its_encoder(
    prefect_here: None, gpu: Callable[[], bool], write_texts: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And lets it go when the questions are encoded."""
    place, found = str(tmp_path / "index"), []
    build_index(BuildParameters(source=write_texts({"a": "Bees make honey."}), index=place))
    load = evaluate.load_encoder_of
    monkeypatch.setattr(evaluate, "load_encoder_of", lambda *given: found.append(gpu()) or load(*given))
    evaluate.evaluate(place, Index.at(place).current(), {"q": "honey"}, {"q": {"a": 1}})
    assert found == [False]
    assert gpu()


def test_nothing_to_encode_starts_no_run(prefect_here: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reindex that has caught up has no shards."""
    for where in ("here", "processes:2", "pool:2"):
        monkeypatch.setenv(SETTING, where)
        assert encode_shards([], a_recipe(Index.at(tmp_path / "index"))) == []


@task
def threads() -> int:
    """Of torch, in the process that this runs in."""
    import torch

    return torch.get_num_threads()


@pytest.mark.slow
def test_processes_share_the_threads_of_the_machine(prefect_here: None) -> None:
    """Each encoder would use all of them, and both together be slower than one."""
    import torch

    with spread._runner(Place("processes", 2)) as runner:
        assert runner.submit(threads, {}).result() == max(1, torch.get_num_threads() // 2)


def test_a_run_that_waits_for_a_worker_is_told_of_and_one_that_is_stuck_is_given_up(
    prefect_here: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody serves the queue; then a person cancels the run, and the worker that should end it is dead."""
    monkeypatch.setattr(spread, "get_run_logger", lambda: logging.getLogger("waiting"))
    monkeypatch.setattr(spread, "_LOOK_SECONDS", 0.05)
    monkeypatch.setattr(spread, "_REMIND_SECONDS", 0.1)
    monkeypatch.setattr(spread, "PATIENCE_SECONDS", 1.0)
    index, told = Index.at(tmp_path / "index"), []
    recipe = a_recipe(index)
    shards = [Shard(file=recipe.codec.file, content=f"{at}", documents=1, characters=10 + at) for at in range(2)]
    with get_client(sync_client=True) as client, progress.listening(lambda step: told.append(step.advance)):
        begun = client.create_flow_run(encode_flow, state=Scheduled())
        waiting = threading.Thread(
            target=copy_context().run, args=(spread._wait, index, recipe, [spread._Run(begun, shards, 0.0)])
        )
        waiting.start()
        until(lambda: "1 of the runs that encode wait for a worker" in caplog.text, "a run is said to wait")
        index.store.create(keys.receipt(recipe.work_key(shards[1])), b"{}")
        until(lambda: 11 in told, "the finished shard is told of")
        assert waiting.is_alive()
        for state_type in (StateType.RUNNING, StateType.CANCELLING):
            client.set_flow_run_state(begun.id, State(type=state_type), force=True)
        waiting.join(20)
        assert not waiting.is_alive()
        state = client.read_flow_run(begun.id).state
    assert state is not None
    assert (state.type, state.message) == (StateType.CRASHED, "No shard was finished for 1 seconds: given to others.")


def a_recipe(index: Index) -> Recipe:
    """Of an index of words."""
    made = make_recipe(index)
    return Recipe(
        address=index.address,
        encoder_name="words",
        encoder=made.encoder,
        codec=made.codec_record,
        chunking=made.chunking,
    )


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_processes_encode_and_one_that_is_killed_costs_its_shard(server: PrefectServer, tmp_path: Path) -> None:
    """Prefect's pool of processes ends with any of them; the run starts another and goes on from its receipts."""
    source, index = tmp_path / "documents.jsonl", tmp_path / "index"
    rows = [{"id": f"{at}", "text": f"Fox {at} jumps over the lazy dog. " * 400} for at in range(24)]
    source.write_text("\n".join(map(json.dumps, rows)))
    parameters = {"source": {"location": str(source)}, "index": str(index), "encoder": ENCODER}
    log = tmp_path / "log"
    flow = RunningFlow(server, Work("build", parameters, {}), log, encode_on="processes:2")
    try:
        until(lambda: list((index / "receipts").glob("*.json")), "a shard is finished", 250)
        os.kill(flow.children[0], signal.SIGKILL)  # the pool is there until the last shard is finished
        code, _ = flow.ended(300)
    finally:
        flow.kill()
    assert code == 0, log.read_text()
    made = Index.at(index).current()
    assert (made.version, made.documents, len(made.segments)) == (1, 24, 8)
    # The pool's end costs both of its processes the shard that they had in hand.
    assert len({path.parent.name for path in index.rglob("codes.npz")}) <= 10


@pytest.mark.slow
@pytest.mark.timeout(900)  # a cluster is eight processes that import for a minute of processor, beside other tests
def test_a_ray_cluster_encodes_and_a_worker_that_is_killed_costs_its_shard(
    server: PrefectServer, tmp_path: Path
) -> None:
    """The setting alone, with a local cluster of the flow's own; what the worker had finished is not done again."""
    source, index = tmp_path / "documents.jsonl", tmp_path / "index"
    rows = [{"id": f"{at}", "text": f"Fox {at} jumps over the lazy dog. " * 400} for at in range(24)]
    source.write_text("\n".join(map(json.dumps, rows)))
    script = "from tasks import stage_documents; from colonnade import cli; stage_documents.SHARD_DOCUMENTS = 3; "
    options = ["--encoder", ENCODER]
    command = [sys.executable, "-c", f"{script}cli.main()", "build", str(source), str(index), *options]
    environment = {**server.environment, SETTING: "ray", "PYTHONPATH": str(PROJECT), **QUIET_RAY}
    build = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        receipts = index / "receipts"
        until(lambda: list(receipts.glob("*.json")) and ray_workers(build.pid), "a shard is finished, on a worker", 480)
        os.kill(ray_workers(build.pid)[0], signal.SIGKILL)
        _, told = build.communicate(timeout=360)
    finally:
        kill_worker(build.pid)
    assert build.returncode == 0, told
    made = Index.at(index).current()
    assert (made.documents, len(made.segments)) == (24, 8)
    assert len({path.parent.name for path in index.rglob("codes.npz")}) <= 9


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_on_ray_each_shard_asks_for_a_gpu_of_its_own_where_the_cluster_has_any(server: PrefectServer) -> None:
    """A cluster that says it has one, which is a number to Ray; the test above is of a cluster without."""
    environment = {**server.environment, "PYTHONPATH": str(PROJECT), **QUIET_RAY}
    command = [sys.executable, "-c", WHAT_RAY_GIVES]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=550, check=False)
    assert done.stdout.splitlines()[-1:] == ["[1.0, 1.0]"], done.stderr


def ray_workers(process: int) -> list[int]:
    """The processes in which a flow's own cluster encodes: Ray names them after what they do."""
    found = []
    for one in started_by(process):
        with suppress(OSError):  # it is over
            if Path(f"/proc/{one}/cmdline").read_bytes().startswith(b"ray::encode shard"):
                found.append(one)
    return found

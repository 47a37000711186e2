"""Where shards are encoded, by one setting, and one GPU for one process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows.spread import SETTING, Place
from index_format.errors import InputError
from index_format.index import Index
from tasks.device import Places
from tests.prefect_server import PROJECT, PrefectServer
from tests.torture.flow_kills import ENCODER
from tests.torture.flow_processes import RunningFlow, Work

HOLD = """
import sys, time
from pathlib import Path
from tasks.device import Places
print(Places(Path(sys.argv[1]), ["one", "two"]).take(), flush=True)
time.sleep(300)
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


def test_a_place_is_for_one_process_and_free_as_soon_as_it_is_killed(tmp_path: Path) -> None:
    """Two processes have one of two places each; the third waits, and follows the one that dies at once."""
    holders = [
        subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=PROJECT)
        for _ in range(2)
    ]
    try:
        held = [int(one.stdout.readline()) for one in holders if one.stdout]
        assert sorted(held) == [0, 1]
        os.kill(holders[0].pid, signal.SIGKILL)
        holders[0].wait(10)
        ours = Places(tmp_path, ["one", "two"])
        assert ours.take() == held[0]
        assert ours.take() == held[0]
        ours.leave()
    finally:
        for one in holders:
            one.kill()
            one.wait(10)


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
        deadline = time.monotonic() + 250
        while not list((index / "receipts").glob("*.json")):
            assert time.monotonic() < deadline, "no shard was finished"
            time.sleep(0.01)
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
def test_a_ray_cluster_encodes_without_a_change_of_the_flow(server: PrefectServer, tmp_path: Path) -> None:
    """The setting alone; a local cluster of the flow's own."""
    pytest.importorskip("prefect_ray", reason="the extra 'ray' is not installed")
    source, index = tmp_path / "documents.jsonl", tmp_path / "index"
    source.write_text("".join(json.dumps({"id": f"{at}", "text": f"Fox {at} jumps."}) + "\n" for at in range(6)))
    script = "from tasks import stage_documents; from colonnade import cli; stage_documents.SHARD_DOCUMENTS = 3; "
    command = [sys.executable, "-c", f"{script}cli.main()", "build", str(source), str(index)]
    environment = {
        **server.environment,
        SETTING: "ray",
        "PYTHONPATH": str(PROJECT),
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    made = Index.at(index).current()
    assert (made.documents, len(made.segments)) == (6, 2)

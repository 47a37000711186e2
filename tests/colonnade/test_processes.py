"""Colonnade as processes: interrupted, killed, out of disk, and serving while the index changes."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from index_format.index import Index
from tests.prefect_server import PrefectServer
from tests.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

IN_SHARDS = "from colonnade import cli; from tasks import stage_documents as s; s.SHARD_DOCUMENTS = 20; cli.main()"
COLONNADE = str(Path(sys.executable).with_name("colonnade"))
DOCUMENTS = 120
PATIENCE = 240  # seconds: a busy machine starts a process slowly


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Enough text to encode for some seconds."""
    path = tmp_path / "long.jsonl"
    sentence = "The quick brown fox number {} jumps over the lazy dog, and nobody knows why it does so. "
    rows = [{"id": f"fox-{one}", "text": sentence.format(one) * 12} for one in range(DOCUMENTS)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def start(server: PrefectServer, *arguments: object) -> subprocess.Popen[str]:
    return run(server, COLONNADE, *arguments)


def run(server: PrefectServer, *command: object) -> subprocess.Popen[str]:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(list(map(str, command)), env=server.environment, **pipes)


def wait_for(happened: Callable[[], object], what: str, process: subprocess.Popen[str]) -> None:
    def met() -> object:
        assert process.poll() is None, process.communicate()
        return happened()

    until(met, what, PATIENCE)


def encoding_has_begun(index: Path) -> Callable[[], object]:
    # The codec is written once the model is loaded, just before the first batch is encoded.
    return lambda: list(index.glob("codecs/*.npz"))


def test_ctrl_c_ends_at_once_and_leaves_no_version(server: PrefectServer, source: Path, tmp_path: Path) -> None:
    """Exit code 130, one sentence, nothing published, nothing staged; the next run does the whole job."""
    index = tmp_path / "index"
    process = start(server, "build", source, index)
    wait_for(encoding_has_begun(index), "encoding has begun", process)

    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE)

    assert process.returncode == 130, err
    assert "Interrupted. What was published stays, nothing else was changed" in err
    assert "Traceback" not in err
    assert Index.at(index).versions() == []
    assert not list(index.rglob("staging/**/*.parquet"))
    done = start(server, "build", source, index)
    assert done.wait(PATIENCE) == 0, done.communicate()
    assert Index.at(index).current().documents == DOCUMENTS


def test_ctrl_c_ends_a_run_whose_end_waits_for_a_lock_that_the_signal_left_taken() -> None:
    """As a connection pool's may be: Python raises between any two steps of a library."""
    code = """
import os, signal, threading
from colonnade import running

running._AGAIN_SECONDS, running._reach_server = 0.5, lambda: None

def call():
    taken = threading.Lock()
    taken.acquire()
    try:
        os.kill(os.getpid(), signal.SIGINT)
    finally:
        taken.acquire()

running.run_flow(call)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert "KeyboardInterrupt" in done.stderr
    assert done.returncode != 0


def test_kill_9_loses_nothing_and_doubles_nothing(server: PrefectServer, source: Path, tmp_path: Path) -> None:
    """An add that is killed when it has done a part: the version before still answers, and it can simply run again."""
    index, first = tmp_path / "index", tmp_path / "first.jsonl"
    first.write_text('{"id": "bee", "text": "Bees make honey."}\n')
    assert start(server, "build", first, index).wait(PATIENCE) == 0
    process = run(server, sys.executable, "-c", IN_SHARDS, "add", source, index)
    wait_for(lambda: list(index.glob("receipts/*.json")), "the first of six shards is finished", process)

    process.kill()
    process.communicate()

    assert (Index.at(index).current().version, Index.at(index).current().documents) == (1, 1)
    assert run(server, sys.executable, "-c", IN_SHARDS, "add", source, index).wait(PATIENCE) == 0
    manifest = Index.at(index).current()
    assert (manifest.version, manifest.documents) == (2, DOCUMENTS + 1)
    assert not list(index.glob("receipts/*.json"))


def test_a_full_disk_is_said_and_leaves_the_index_as_it_was(
    server: PrefectServer, source: Path, tmp_path: Path, small_disk: Path
) -> None:
    """Exit code 5, what is full and what to do; the old version is current and every file of it is whole."""
    index, first = small_disk / "index", tmp_path / "first.jsonl"
    first.write_text('{"id": "bee", "text": "Bees make honey."}\n')
    assert start(server, "build", first, index).wait(PATIENCE) == 0
    process = start(server, "add", source, index)

    _, err = process.communicate(timeout=PATIENCE)

    assert process.returncode == 5, err
    assert "The disk is full: free some space and run again. The index is as it was." in err
    manifest = Index.at(index).current()
    assert manifest.version == 1
    assert all(Index.at(index).files.path(file) for file in manifest.files())


def test_a_server_answers_and_follows_the_index_while_it_runs(server: PrefectServer, tmp_path: Path) -> None:
    """A new version is served without being asked for, and SIGTERM ends the server with code 0."""
    index, first, second = tmp_path / "index", tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    first.write_text('{"id": "bee", "text": "Bees make honey."}\n')
    second.write_text('{"id": "dog", "text": "Dogs bark at strangers."}\n')
    assert start(server, "build", first, index).wait(PATIENCE) == 0
    process = start(server, "serve", index, "--port", 0)
    assert process.stdout is not None
    address = re.search(r"http://\S+", process.stdout.readline())
    assert address is not None, process.communicate()
    with httpx.Client(base_url=address.group(), timeout=30) as client:
        wait_for(lambda: _is_ready(client), "the server is ready", process)
        assert client.post("/v1/search", json={"query": "who barks?"}).json()["version"] == 1

        assert start(server, "add", second, index).wait(PATIENCE) == 0
        wait_for(lambda: client.get("/v1/index").json()["version"] == 2, "version 2 is served", process)

        answer = client.post("/v1/search", json={"query": "who barks?", "k": 1}).json()
        assert (answer["version"], answer["hits"][0]["document_id"]) == (2, "dog")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 0


def _is_ready(client: httpx.Client) -> bool:
    try:
        return client.get("/health/ready").is_success
    except httpx.TransportError:
        return False

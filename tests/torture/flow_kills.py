"""kill -9 of flows, of workers with their runs, and of the Prefect server, at random moments of an add.

Whatever is killed, the same command once more must leave every document in the index once, as one new version, and
nothing that garbage collection does not take. Half of the servers that are killed come back with an empty database.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx

from index_format import keys
from index_format.garbage import collect_garbage
from index_format.history import Retention
from index_format.index import Index
from index_format.verify import verify
from tests.prefect_server import PROJECT, PrefectServer, free_port, prefect_command, wait_until_healthy
from tests.strategies import live_texts
from tests.torture.registry import Step

DOCUMENTS = 16
SECONDS = 300
VICTIMS = ("flow", "flow", "server", "worker")
ADD = """
import sys
from tasks import stage_documents
from flows import spread
from colonnade import cli
stage_documents.SHARD_DOCUMENTS = 4
spread.PATIENCE_SECONDS = 20
cli.main()
"""


def run(count: int, seed: int, step: Step) -> str:
    """Kill `count` times."""
    rng, killed, published = random.Random(seed), 0, 0
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        server = _Server(place / "home")
        try:
            server.start()
            index, held = Index.at(place / "index"), {}
            for case in range(count):
                victim = rng.choice(VICTIMS)
                texts = {f"{case}-{at}": f"The fox number {at} of {case} jumps. " * 20 for at in range(DOCUMENTS)}
                source = place / "source.jsonl"
                source.write_text("".join(json.dumps({"id": one, "text": text}) + "\n" for one, text in texts.items()))
                before = len(index.versions())
                killed += _kill(server, victim, source, index, rng)
                published += len(index.versions()) > before
                _finish(server, source, index)
                held |= texts
                _must_hold(index, held, before, f"case {case}, {victim}, seed {seed}")
                step()
        finally:
            server.kill()
    return f"{killed} kills while documents were added, {published} of them after the commit: none lost, none double"


class _Server:
    """A Prefect server that can be killed and started again."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        api = f"http://127.0.0.1:{self._port}/api"
        quiet = {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}
        self.view = PrefectServer(api, {**os.environ, **quiet, "PREFECT_HOME": str(home), "PREFECT_API_URL": api})

    def start(self) -> None:
        """Start, with deployments when the database is new."""
        fresh = not self._home.exists()
        self._home.mkdir(exist_ok=True)
        with (self._home / "server.log").open("a") as log:
            command = prefect_command("server", "start", "--host", "127.0.0.1", "--port", str(self._port))
            self._process = subprocess.Popen(
                command, env=self.view.environment, stdout=log, stderr=log, start_new_session=True
            )
        wait_until_healthy(self.view.api, self._process, self._home / "server.log")
        if fresh:
            self.view.prefect("work-pool", "create", "colonnade", "--type", "process")
            self.view.prefect("deploy", "--all")

    def kill(self) -> None:
        """kill -9."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(30)
            self._process = None

    def lose_database(self) -> None:
        shutil.rmtree(self._home)


def _kill(server: _Server, victim: str, source: Path, index: Index, rng: random.Random) -> int:
    """Begin to add, kill the victim at a random moment, and wait for what is left. Returns how many were killed."""
    if victim == "worker":
        with _worker(server) as worker:
            adding = _start(server, source, index, encode_on="pool:1")
            _pause(adding, rng, 12)
            os.killpg(worker.pid, signal.SIGKILL)
            adding.kill()
            adding.wait(30)
        return 1
    adding = _start(server, source, index)
    alive = _pause(adding, rng, 8)
    if victim == "flow":
        adding.kill()
    else:
        server.kill()
        if rng.random() < 0.5:
            server.lose_database()
        server.start()
    try:
        adding.wait(SECONDS)
    except subprocess.TimeoutExpired:
        adding.kill()
        adding.wait(30)
    return alive


def _pause(process: subprocess.Popen[bytes], rng: random.Random, longest: float) -> int:
    with suppress(subprocess.TimeoutExpired):
        process.wait(rng.uniform(0.5, longest))
    return int(process.poll() is None)


def _start(server: _Server, source: Path, index: Index, encode_on: str = "here") -> subprocess.Popen[bytes]:
    environment = {**server.view.environment, "COLONNADE_ENCODE_ON": encode_on, "PYTHONPATH": str(PROJECT)}
    command = [sys.executable, "-c", ADD, "build", str(source), index.address]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@contextmanager
def _worker(server: _Server) -> Iterator[subprocess.Popen[bytes]]:
    environment = {**server.view.environment, "PREFECT_WORKER_QUERY_SECONDS": "1", "PYTHONPATH": str(PROJECT)}
    command = prefect_command("worker", "start", "--pool", "colonnade")
    process = subprocess.Popen(
        command, cwd=PROJECT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)


def _finish(server: _Server, source: Path, index: Index) -> None:
    """The same command again, in peace."""
    adding = _start(server, source, index)
    started = time.monotonic()
    code = adding.wait(SECONDS)
    assert code == 0, f"the run after the kill ended with {code} after {time.monotonic() - started:.0f} s"
    assert httpx.get(f"{server.view.api}/health", timeout=30).is_success


def _must_hold(index: Index, held: dict[str, str], before: int, where: str) -> None:
    assert live_texts(index) == held, where
    head = index.current()
    assert len(index.versions()) == before + 1 or before == 0, f"{where}: more than one version came of it"
    faults = list(verify(index.store, [head.version]))
    assert not faults, f"{where}: {faults[0]}"
    time.sleep(0.002)
    collect_garbage(index, Retention(versions=1, days=0), time.time_ns() // 1_000_000)
    versions = index.versions()
    named = set[str]().union(*(index.version(one).named_keys() | {keys.manifest(one)} for one in versions))
    left = [key for key in index.store.list("") if key not in named]
    assert not left, f"{where}: {left[:3]} were left over"

"""What kills of flows kill: flows that start in no time, a Prefect server that comes back, and workers.

A flow is forked from a process that has imported everything, so a kill costs a second and not an import of Prefect.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from colonnade.running import prepare_prefect

prepare_prefect()  # before Prefect is imported

from prefect import Flow  # noqa: E402
from prefect.context import refresh_global_settings_context  # noqa: E402
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings  # noqa: E402

from flows import spread, turns  # noqa: E402
from flows.build_index import build_index  # noqa: E402
from flows.parameters import BuildParameters, ReindexParameters, SyncParameters  # noqa: E402
from flows.reindex_index import reindex_index  # noqa: E402
from flows.sync_index import sync_index  # noqa: E402
from tasks import stage_documents  # noqa: E402
from tests.prefect_server import (  # noqa: E402
    PROJECT,
    PrefectServer,
    free_port,
    kill_worker,
    prefect_command,
    wait_until_healthy,
)

SHARD_DOCUMENTS = 3
FLOWS: dict[str, tuple[Flow[Any, Any], type[Any]]] = {
    "build": (build_index, BuildParameters),
    "sync": (sync_index, SyncParameters),
    "reindex": (reindex_index, ReindexParameters),
}

_forking = multiprocessing.get_context("forkserver")
_forking.set_forkserver_preload([__name__, "transformers.models.bert.modeling_bert"])  # what a flow imports late


@dataclass(frozen=True, slots=True)
class Work:
    """A flow by its name, its parameters, and the documents of the index when it is done."""

    flow: str
    parameters: dict[str, object]
    after: dict[str, str]


class RunningFlow:
    """A flow in a process of its own."""

    def __init__(
        self, server: PrefectServer, work: Work, log: Path, encode_on: str = "here", patience: float = 300.0
    ) -> None:
        """Start it, and return when it is about to begin. patience: seconds without a shard of a run elsewhere."""
        reading, writing = _forking.Pipe(duplex=False)
        arguments = (server.api, work, str(log), encode_on, patience, writing)
        self._process = _forking.Process(target=_run, args=arguments)  # no daemon: it may start processes itself
        self._process.start()
        writing.close()
        with suppress(EOFError):
            reading.recv()
        self._started = time.monotonic()

    @property
    def children(self) -> list[int]:
        """The processes that it started to encode in."""
        listed = Path(f"/proc/{self._process.pid}/task").glob("*/children")
        found = [int(one) for path in listed for one in path.read_text().split()]
        return [one for one in found if b"spawn_main" in Path(f"/proc/{one}/cmdline").read_bytes()]

    def signal(self, number: int) -> None:
        """Send a signal; nothing happens when the flow is over."""
        if self._process.is_alive() and self._process.pid:
            os.kill(self._process.pid, number)

    def kill(self) -> bool:
        """kill -9, at whatever it is. Returns whether it was at anything."""
        alive = self._process.is_alive()
        self._process.kill()
        self._process.join()
        return alive

    def ended(self, seconds: float) -> tuple[int | None, float]:
        """The exit code, None when it is not over in time, and how long the flow took."""
        self._process.join(seconds)
        return self._process.exitcode, time.monotonic() - self._started


def _run(api: str, work: Work, log: str, encode_on: str, patience: float, started: Connection) -> None:
    """The life of a forked process."""
    with Path(log).open("a") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    # In the environment, where threads and processes that the flow starts find it too.
    os.environ |= {"PREFECT_API_URL": api, "PREFECT_LOGGING_TO_API_ENABLED": "false", spread.SETTING: encode_on}
    refresh_global_settings_context()
    stage_documents.SHARD_DOCUMENTS, spread.PATIENCE_SECONDS = SHARD_DOCUMENTS, patience
    turns.BEAT_SECONDS, turns.PATIENCE_SECONDS = 0.5, 3.0
    body, form = FLOWS[work.flow]
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):  # a second sooner
        started.send(True)
        body(form(**work.parameters))


class MortalServer:
    """A Prefect server with all deployments that can be killed, and starts again with its database or an empty one."""

    def __init__(self, folder: Path) -> None:
        self._home, self._empty = folder / "home", folder / "empty-home"
        self._home.mkdir()
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        api = f"http://127.0.0.1:{self._port}/api"
        quiet = {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}
        self.view = PrefectServer(api, {**os.environ, **quiet, "PREFECT_HOME": str(self._home), "PREFECT_API_URL": api})
        self.start()
        self.view.prefect("work-pool", "create", "colonnade", "--type", "process")
        self.view.prefect("deploy", "--all")
        self.kill()
        shutil.copytree(self._home, self._empty)
        self.start()

    def start(self) -> None:
        """Start, and return when it answers."""
        log = self._home / "server.log"
        command = prefect_command("server", "start", "--host", "127.0.0.1", "--port", str(self._port))
        with log.open("a") as output:
            self._process = subprocess.Popen(
                command, env=self.view.environment, stdout=output, stderr=output, start_new_session=True
            )
        wait_until_healthy(self.view.api, self._process, log)

    def kill(self) -> None:
        """kill -9."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(30)
            self._process = None

    def lose_database(self) -> None:
        """What a new server of the same project begins with: deployments, and no run that ever was."""
        shutil.rmtree(self._home)
        shutil.copytree(self._empty, self._home)


@contextmanager
def worker(server: PrefectServer, log: Path) -> Iterator[int]:
    """The process of a worker of all queues that looks for work every second."""
    environment = {**server.environment, "PREFECT_WORKER_QUERY_SECONDS": "1", "PYTHONPATH": str(PROJECT)}
    command = prefect_command("worker", "start", "--pool", "colonnade")
    with log.open("a") as output:
        process = subprocess.Popen(command, cwd=PROJECT, env=environment, stdout=output, stderr=output)
    try:
        yield process.pid
    finally:
        kill_worker(process.pid)
        process.wait(30)

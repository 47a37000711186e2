"""A real Prefect server in a process of its own, on loopback, with a home of its own."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx

DATABASE = "prefect.db"  # in its home
START_SECONDS = 180
PROJECT = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True)
class PrefectServer:
    """A running server and the environment in which `prefect` talks to it."""

    api: str
    environment: dict[str, str]

    def prefect(self, *arguments: str, timeout: float = 180) -> str:
        """Run the `prefect` command from the project's root and return what it printed. Fails when it fails."""
        command = prefect_command("--no-prompt", *arguments)
        done = subprocess.run(
            command, cwd=PROJECT, env=self.environment, capture_output=True, text=True, timeout=timeout, check=False
        )
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def copy_database(self, place: Path) -> None:
        """Copy the database as it is now."""
        home = Path(self.environment["PREFECT_HOME"])
        with closing(sqlite3.connect(home / DATABASE)) as there, closing(sqlite3.connect(place)) as copy:
            there.backup(copy)


def prefect_command(*arguments: str) -> list[str]:
    """The command line of Prefect's own command."""
    return [str(Path(sys.executable).with_name("prefect")), *arguments]


@contextmanager
def prefect_server(home: Path) -> Iterator[PrefectServer]:
    """Start a server and stop it again."""
    port = free_port()
    environment = {
        **os.environ,
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }
    command = prefect_command("server", "start", "--host", "127.0.0.1")
    with (home / "server.log").open("w") as log:
        process = subprocess.Popen([*command, "--port", str(port)], env=environment, stdout=log, stderr=log)
        try:
            wait_until_healthy(environment["PREFECT_API_URL"], process, home / "server.log")
            yield PrefectServer(environment["PREFECT_API_URL"], environment)
        finally:
            process.terminate()
            process.wait(30)


def started_by(process: int) -> list[int]:
    """A process and all that it started and that they started, in whatever session."""
    found = [process]
    for one in found:
        with suppress(OSError):  # it is over
            listed = [path.read_text() for path in Path(f"/proc/{one}/task").glob("*/children")]
            found += [int(child) for children in listed for child in children.split()]
    return found


def kill_worker(process: int) -> None:
    """kill -9 of a worker and its flow runs, each of which has a session of its own: a machine that lost power."""
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGSTOP)  # so that it starts no more
    for one in reversed(started_by(process)):
        with suppress(ProcessLookupError):
            os.kill(one, signal.SIGKILL)


def wait_until_healthy(api: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Return when the server answers. Raises RuntimeError, with its log, when it does not."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"{api}/health", timeout=5).status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(0.5)
    raise RuntimeError(f"the Prefect server did not start:\n{log.read_text()}")


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

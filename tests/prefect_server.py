"""A real Prefect server in a process of its own, on loopback, with a home of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

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

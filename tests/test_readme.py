"""The README's commands, run as they are printed."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from index_format.index import Index
from tests.prefect_server import PROJECT

README = PROJECT / "README.md"


def blocks() -> list[str]:
    """All shell blocks, in order."""
    return re.findall(r"```bash\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)


def shell(script: str, directory: Path, **more: str) -> str:
    """Run a script as a user would, in an environment where `make setup` is done; background work ends with it."""
    environment = {**os.environ, **more, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    log = directory / "session.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            ["bash", "-e", "-c", script],
            cwd=directory,
            env=environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            code = process.wait(280)
        finally:
            with suppress(ProcessLookupError):  # where nothing was left in the background
                os.killpg(process.pid, signal.SIGKILL)
    assert code == 0, log.read_text()
    return log.read_text()


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def test_the_readme_is_short() -> None:
    """At most 150 lines."""
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 150


def test_the_session_in_python_runs_as_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Add, search and ask in SQL."""
    monkeypatch.chdir(tmp_path)
    (session,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    exec(session, {})
    assert "owls Owls hunt at night." in capsys.readouterr().out


@pytest.mark.slow
def test_the_session_with_ones_own_documents_runs_as_printed(server, tmp_path: Path) -> None:
    """Build, search, add, delete, inspect and serve, on the README's own documents."""
    session = (
        "".join(blocks()[1:4]).replace("make setup && source .venv/bin/activate\n", "").replace("8081", free_port())
    )

    printed = shell(session, tmp_path, **server.environment)

    assert "Bees make honey from nectar." in printed
    assert '"document_id":"dogs"' in printed
    assert Index.at(tmp_path / "animals-index").versions() == [1, 2, 3, 4, 5]


@pytest.mark.slow
def test_the_session_with_prefect_runs_as_printed(empty_database: Path, tmp_path: Path) -> None:
    """A server of its own, deployments, a worker, and a run watched to its end."""
    shutil.copytree(PROJECT, tmp_path / "project", ignore=shutil.ignore_patterns(".*", "*.egg-info", "__pycache__"))
    (tmp_path / "project" / "animals.jsonl").write_text('{"id": "bees", "text": "Bees make honey."}\n')
    port = free_port()
    session = blocks()[4].replace("4200", port).replace("server start", f"server start --port {port}")
    home = {"PREFECT_HOME": str(empty_database), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}

    shell(session, tmp_path / "project", **home)

    assert Index.at(tmp_path / "project" / "animals-index").current().documents == 1

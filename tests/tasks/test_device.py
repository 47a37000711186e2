"""One GPU for one process of a machine, whoever starts it and however it ends. The places here stand for GPUs."""

from __future__ import annotations

import os
import runpy
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch

from tasks.device import Places
from tests.prefect_server import PROJECT

HOLD = """
import sys, time
from pathlib import Path
from tasks.device import Places
print(Places(Path(sys.argv[1]), lambda: ["one", "two"]).take(), flush=True)
time.sleep(300)
"""


def two() -> list[str]:
    return ["one", "two"]


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
        ours = Places(tmp_path, two)
        with ours.kept():
            assert ours.take() == held[0]
            assert ours.take() == held[0]
    finally:
        for one in holders:
            one.kill()
            one.wait(10)


def test_a_process_comes_back_to_the_place_that_it_had(tmp_path: Path) -> None:
    """The weights of its encoder are there: it waits for that place though another is free."""
    ours, others, taken = Places(tmp_path, two), Places(tmp_path, two), []
    with ours.kept():
        assert ours.take() == 0
    with ExitStack() as other:
        other.enter_context(others.kept())
        assert others.take() == 0
        waiting = threading.Thread(target=lambda: taken.append(ours.take()))
        waiting.start()
        waiting.join(1.5)
        assert taken == []
    waiting.join(10)
    assert taken == [0]


def test_a_place_is_let_go_by_the_last_of_the_blocks_that_use_it(tmp_path: Path) -> None:
    """One thread's end does not free it under another's work."""
    ours, others = Places(tmp_path, lambda: ["one"]), Places(tmp_path, lambda: ["one"])
    first, second = ExitStack(), ExitStack()
    first.enter_context(ours.kept())
    ours.take()
    second.enter_context(ours.kept())
    first.close()
    assert others._taken() is None
    second.close()
    assert others._taken() == 0


@pytest.fixture
def everyones_folder() -> Iterator[Path]:
    """A folder like /tmp."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o1777)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_another_user_waits_for_the_same_place(everyones_folder: Path) -> None:
    """Whatever the umask of the one that made the file."""
    before = os.umask(0o077)
    try:
        ours = Places(everyones_folder, lambda: ["one"])
        with ours.kept():
            ours.take()
            assert as_nobody(everyones_folder) == "taken"
        assert as_nobody(everyones_folder) == "free"
    finally:
        os.umask(before)
    (lock,) = everyones_folder.iterdir()
    assert stat.S_IMODE(lock.stat().st_mode) == 0o444


def as_nobody(folder: Path) -> str:
    """What a process of another user finds."""
    child = os.fork()
    if child == 0:
        try:
            os.setuid(65534)
            found = Places(folder, lambda: ["one"])._taken()
            os._exit(1 if found is None else 0)
        finally:
            os._exit(2)
    return {0: "free", 1: "taken"}.get(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), "refused")


def test_nobody_looks_for_gpus_before_one_is_wanted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Looking starts CUDA, in every process that imports the module."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: pytest.fail("it looked"))
    module = runpy.run_path(str(PROJECT / "tasks" / "device.py"))
    with module["gpu_kept"]():
        pass

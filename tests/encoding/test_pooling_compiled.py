"""What the compiler makes of the kernel that pools on a GPU, without one: Triton compiles for an H200 anywhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton, which the kernels of a GPU need, is there for Linux on x86-64 alone")

PROJECT = Path(__file__).parents[2]


def test_the_kernel_compiles_and_rounds_as_torch_does() -> None:
    """No sum is fused with a product, no quotient is an approximation; and threads wait for what others wrote."""
    compiles = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "tests.encoding.compile_pooling_kernel"]
    done = subprocess.run(command, cwd=PROJECT, env=compiles, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    compiled: dict[str, dict[str, int]] = json.loads(done.stdout)
    assert len(compiled) == 3
    for counts in compiled.values():
        assert counts["fused"] == counts["other_quotients"] == 0
        assert counts["exact_quotients"] > 0
        assert counts["barriers"] >= 2

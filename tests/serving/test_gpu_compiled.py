"""What the compiler makes of the kernels of a GPU, without one: Triton compiles for an H200 anywhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton, which the kernels of a GPU need, is there for Linux on x86-64 alone")

PROJECT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def compiled() -> dict[str, dict[str, int]]:
    """Counts of instructions by kernel."""
    compiles = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "tests.serving.compile_gpu_kernels"]
    done = subprocess.run(command, cwd=PROJECT, env=compiles, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    counts: dict[str, dict[str, int]] = json.loads(done.stdout)
    return counts


def test_every_kernel_compiles_and_fuses_no_sum_with_a_product(compiled: dict[str, dict[str, int]]) -> None:
    """A fused multiply-add rounds once where the score's definition rounds twice."""
    assert len(compiled) == 8
    assert {name: counts["fused"] for name, counts in compiled.items()} == dict.fromkeys(compiled, 0)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_products_run_on_tensor_cores_and_codes_come_sixteen_bytes_at_a_time(
    bits: int, compiled: dict[str, dict[str, int]]
) -> None:
    """Codes as they lie in memory: a read of each byte by itself would cost many times the rest."""
    counts = compiled[f"maxsim {bits}"]
    assert counts["products"] > 0
    assert counts["copies_of_16_bytes"] > 0


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_codes_are_unpacked_four_at_a_time(bits: int, compiled: dict[str, dict[str, int]]) -> None:
    """Byte by byte the compiler takes words apart and puts them together again 72 times and more."""
    assert compiled[f"maxsim {bits}"]["pieces_of_words"] < 8

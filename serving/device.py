"""Which device scores passages: the processor, or a GPU when one is there."""

from __future__ import annotations

from typing import Literal

from index_format.errors import InputError

Device = Literal["cpu", "cuda"]
DeviceChoice = Literal["auto", "cpu", "cuda"]


def choose_device(choice: DeviceChoice) -> Device:
    """The device that a choice means here. Raises InputError when a GPU is asked for and cannot be used."""
    if choice == "cpu":
        return "cpu"
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if choice == "auto":
        return "cpu"
    raise InputError(
        "device cuda: torch finds no GPU here "
        f"(torch {torch.__version__}, built for CUDA {torch.version.cuda or 'no'}). Use --device cpu, or install a "
        "torch that is built for the GPU's driver."
    )

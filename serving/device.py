"""Which device scores passages, and which encodes: the processor, or a GPU when one is there."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Literal

from index_format.errors import InputError

Device = Literal["cpu", "cuda"]
DeviceChoice = Literal["auto", "cpu", "cuda"]


def choose_device(choice: DeviceChoice) -> Device:
    """The device that a choice means here. Raises InputError when a GPU is asked for and cannot be used."""
    if choice == "cpu":
        return "cpu"
    missing = _missing()
    if missing is None:
        return "cuda"
    if choice == "auto":
        return "cpu"
    raise InputError(f"device cuda: {missing} Or use --device cpu.")


def choose_encoder_device(choice: DeviceChoice) -> Device | None:
    """The device that a choice means to the encoder; None lets it choose, for it needs no Triton. Raises InputError."""
    return None if choice == "auto" else choose_device(choice)


def _missing() -> str | None:
    """What a GPU would need that is not here, and how to get it."""
    import torch

    if not torch.cuda.is_available():
        built = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
        return (
            f"torch finds no GPU here (torch {torch.__version__} is built {built}). "
            "Install a torch that is built for the GPU's driver."
        )
    if find_spec("triton") is None:
        return "Triton is not installed. Install it with: pip install 'colonnade[gpu]'."
    return None

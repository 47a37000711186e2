"""The real encoder, loaded once for the session; and where the kernels of a GPU run."""

from __future__ import annotations

import os

import pytest
import torch

from encoding.checkpoint import EMBEDDED
from encoding.encoder import Encoder, load_encoder

if not torch.cuda.is_available():
    # Before serving.gpu.kernels is imported: Triton then interprets its kernels on the CPU, operation by operation.
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(scope="session")
def encoder() -> Encoder:
    """The embedded default."""
    return load_encoder(EMBEDDED)

"""The real encoder, loaded once for the session."""

from __future__ import annotations

import pytest

from encoding.checkpoint import EMBEDDED
from encoding.encoder import Encoder, load_encoder


@pytest.fixture(scope="session")
def encoder() -> Encoder:
    """The embedded default."""
    return load_encoder(EMBEDDED)

"""Where sources lie."""

from __future__ import annotations

import pytest


@pytest.fixture(params=["directory", "bucket"])
def place(request: pytest.FixtureRequest) -> str:
    """Where sources lie: each test runs on a disk and on S3."""
    if request.param == "directory":
        return str(request.getfixturevalue("tmp_path"))
    return str(request.getfixturevalue("fresh_s3_address"))

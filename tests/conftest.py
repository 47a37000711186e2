"""Fixtures that more than one folder of tests needs."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from tests.fault_proxy import Proxy

pytest_plugins = ["tests.prefect_harness"]
pytest.register_assert_rewrite("tests.contracts.store", "tests.index_format.plain_reader")

# Machines that run tests are shared: slowness is not a failure.
settings.register_profile("colonnade", deadline=None, max_examples=60, print_blob=True)
settings.load_profile("colonnade")


@pytest.fixture(scope="session")
def s3_address() -> Iterator[str]:
    """An `s3://bucket/prefix` on a real server for the whole session, with `AWS_*` set so that anyone can open it."""
    import boto3
    import s3fs

    from tests.s3_server import running_s3_server

    bucket = f"bucket-{uuid.uuid4().hex[:8]}"
    with running_s3_server() as endpoint, mock.patch.dict(os.environ, _aws_environment(endpoint)):
        s3fs.S3FileSystem.clear_instance_cache()  # instances are shared by arguments and keep their first endpoint
        boto3.client("s3").create_bucket(Bucket=bucket)
        yield f"s3://{bucket}/prefix"
        s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def fresh_s3_address(s3_address: str) -> str:
    """An empty place on the session's server, for one test."""
    return f"{s3_address}/{uuid.uuid4().hex}"


@pytest.fixture(autouse=True)
def own_cache_directory(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files of remote indexes are cached in a directory of the test's own, never in the user's."""
    directory = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(directory))
    return directory


def _aws_environment(endpoint: str) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


@pytest.fixture
def s3_proxy(s3_address: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Proxy, str]]:
    """A fault proxy before the session's server, and an empty place that is reached through it."""
    import s3fs

    from tests.fault_proxy import running_proxy

    with running_proxy(os.environ["AWS_ENDPOINT_URL"]) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        s3fs.S3FileSystem.clear_instance_cache()
        yield proxy, f"{s3_address}/{uuid.uuid4().hex}"
    s3fs.S3FileSystem.clear_instance_cache()

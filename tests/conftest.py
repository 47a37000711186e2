"""Fixtures that more than one folder of tests needs; and where the kernels of a GPU run."""

from __future__ import annotations

import os
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import settings

from tests.s3_server import bucket_for_tests

if TYPE_CHECKING:
    from encoding.encoder import Encoder
    from tests.fault_proxy import Proxy

if not torch.cuda.is_available():
    # Before anything imports Triton, as parts of torch do: it then interprets kernels on the CPU.
    os.environ["TRITON_INTERPRET"] = "1"

pytest_plugins = ["tests.prefect_harness"]
pytest.register_assert_rewrite("tests.contracts.store", "tests.index_format.plain_reader")

# Machines that run tests are shared: slowness is not a failure.
settings.register_profile("colonnade", deadline=None, max_examples=60, print_blob=True)
settings.load_profile("colonnade")


@pytest.fixture(scope="session")
def encoder() -> Encoder:
    """The embedded default, loaded once for the session."""
    from encoding.checkpoint import EMBEDDED
    from encoding.encoder import load_encoder

    return load_encoder(EMBEDDED)


@pytest.fixture(scope="session")
def s3_address() -> Iterator[str]:
    """An `s3://bucket/prefix` on a real server for the whole session, with `AWS_*` set so that anyone can open it."""
    with bucket_for_tests() as bucket:
        yield f"{bucket}/prefix"


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


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of three megabytes; mounting it takes root."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("mounting a small file system takes root")
    yield place
    subprocess.run(["umount", str(place)], check=True)


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

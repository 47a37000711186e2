"""A real S3 API over HTTP for tests: moto in a process of its own.

It answers one request at a time. moto checks a write's condition and stores the object in two steps, so its
threaded server lets two writers of one key both win, which no S3 does.
"""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock


def main() -> None:
    """Serve on a free port, say which, and stop when standard input closes."""
    import threading

    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    server = make_server("127.0.0.1", 0, DomainDispatcherApplication(create_backend_app), threaded=False)
    print(server.port, flush=True)  # noqa: T201

    def stop_with_parent() -> None:
        sys.stdin.read()
        os._exit(0)

    threading.Thread(target=stop_with_parent, daemon=True).start()
    server.serve_forever()


@contextmanager
def running_s3_server() -> Iterator[str]:
    """The endpoint URL of a server that runs for the length of the block."""
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.stdin.close()
        process.wait(timeout=10)
        process.stdout.close()


@contextmanager
def bucket_for_tests() -> Iterator[str]:
    """An `s3://bucket` on a server of its own, with `AWS_*` set so that anyone can open it."""
    import boto3
    import s3fs

    bucket = f"bucket-{uuid.uuid4().hex[:8]}"
    with running_s3_server() as endpoint, mock.patch.dict(os.environ, _environment(endpoint)):
        s3fs.S3FileSystem.clear_instance_cache()  # instances are shared by arguments and keep their first endpoint
        boto3.client("s3").create_bucket(Bucket=bucket)
        yield f"s3://{bucket}"
        s3fs.S3FileSystem.clear_instance_cache()


def _environment(endpoint: str) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


if __name__ == "__main__":
    main()

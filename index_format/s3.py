"""An index in a bucket: the Store over S3, through s3fs (SPEC §3).

Endpoint, region and credentials come the way s3fs and boto users expect: environment variables
(`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`, ...), profiles, or instance roles.
`create` is one conditional PUT (`If-None-Match: *`); a store that ignores the condition is unsafe.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import s3fs
from botocore.exceptions import BotoCoreError

from index_format.errors import InputError, ObjectExists, ObjectMissing, StorageError

_ALREADY_THERE = (409, 412)
_MAY_PASS = (408, 429)  # of the client errors, those that another try may settle
_PAST_THE_END = 416


class S3Store:
    """Objects under `s3://bucket/prefix`."""

    def __init__(self, address: str) -> None:
        self._prefix = address.removeprefix("s3://").strip("/")
        if not self._prefix:
            raise InputError(f"{address!r} names no bucket: expected s3://bucket/prefix.")
        # Listings must show what is there now, and one S3FileSystem is shared by equal arguments.
        self._files = s3fs.S3FileSystem(use_listings_cache=False)

    @property
    def address(self) -> str:
        return f"s3://{self._prefix}"

    def create(self, key: str, data: bytes) -> None:
        try:
            self._files.pipe_file(self._path(key), data, mode="create")
        except (OSError, BotoCoreError) as error:
            if isinstance(error, FileExistsError) or _http_status(error) in _ALREADY_THERE:
                raise ObjectExists(f"{self.address}/{key} exists already; objects are never overwritten.") from error
            raise self._error("write", key, error) from error

    def get(self, key: str) -> bytes:
        return self._read(key, None, None)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        return self._read(key, start, start + length) if length else b""

    def size(self, key: str) -> int:
        try:
            return int(self._files.call_s3("head_object", **self._bucket_and_key(key))["ContentLength"])
        except (OSError, BotoCoreError) as error:
            raise self._error("read", key, error) from error

    def list(self, prefix: str) -> list[str]:
        folder, _, start = prefix.rpartition("/")
        try:
            paths = self._files.find(self._path(folder) + "/", prefix=start, refresh=True)
        except FileNotFoundError:
            return []
        except (OSError, BotoCoreError) as error:
            raise self._error("list", prefix, error) from error
        return sorted(path.removeprefix(f"{self._prefix}/") for path in paths)

    def delete(self, key: str) -> None:
        try:
            self._files.call_s3("delete_object", **self._bucket_and_key(key))
        except FileNotFoundError:
            return
        except (OSError, BotoCoreError) as error:
            raise self._error("delete", key, error) from error

    def local_path(self, key: str) -> Path | None:
        return None

    def _read(self, key: str, start: int | None, end: int | None) -> bytes:
        try:
            return bytes(self._files.cat_file(self._path(key), start=start, end=end))
        except (OSError, BotoCoreError) as error:
            if _http_status(error) == _PAST_THE_END:
                return b""
            raise self._error("read", key, error) from error

    def _path(self, key: str) -> str:
        return f"{self._prefix}/{key}" if key else self._prefix

    def _bucket_and_key(self, key: str) -> dict[str, str]:
        bucket, _, inside = self._path(key).partition("/")
        return {"Bucket": bucket, "Key": inside}

    def _error(self, action: str, key: str, error: Exception) -> StorageError:
        if isinstance(error, FileNotFoundError):
            return ObjectMissing(f"{self.address} has no object {key}.")
        status = _http_status(error) or 0
        return StorageError(
            f"Could not {action} {self.address}/{key}: {error}. "
            "Check the bucket, the credentials and AWS_ENDPOINT_URL, then run again.",
            refused=400 <= status < 500 and status not in _MAY_PASS,
        )


def _http_status(error: BaseException) -> int | None:
    # s3fs maps a failed condition to FileExistsError or to a bare OSError, depending on the server.
    response: Any = getattr(error.__cause__, "response", None) or getattr(error, "response", None)
    return response["ResponseMetadata"]["HTTPStatusCode"] if response else None

"""An index in a bucket: the Store over S3, through s3fs (SPEC §3).

Endpoint, region and credentials come the way s3fs and boto users expect: environment variables
(`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`, ...), profiles, or instance roles.
`create` is one conditional PUT (`If-None-Match: *`); a store that ignores the condition is unsafe.
Requests are tried again here and not below, as a hidden second try of a PUT makes a doubtful outcome look sure.
(aiohttp alone repeats a request once when its connection breaks; a commit's own id settles that.)
"""

from __future__ import annotations

import http.client
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import aiohttp  # s3fs's own client, whose errors it does not always translate
import s3fs
from botocore.exceptions import BotoCoreError, CredentialRetrievalError, NoCredentialsError, PartialCredentialsError

from index_format.errors import InputError, ObjectExists, ObjectMissing, StorageError

Answer = TypeVar("Answer")

_FAILURES = (OSError, BotoCoreError, aiohttp.ClientError, http.client.HTTPException)
_NOT_SENT = (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError)
_TRIES = 6
_PAUSE_SECONDS = 0.1  # before the second try, doubled before each further one, and drawn at random below that
_TAKEN = 412
_MAY_PASS = (408, 409, 429)  # of the client errors, those that another try may settle
_DENIED = (401, 403)
_PAST_THE_END = 416
_NO_UPLOAD = "NoSuchUpload"  # s3fs removes an upload that failed: there is none where only the answer was lost
_PART_BYTES = 16 * 2**20  # an object of two parts or more is uploaded in parts


class S3Store:
    """Objects under `s3://bucket/prefix`."""

    def __init__(self, address: str) -> None:
        self._prefix = address.removeprefix("s3://").strip("/")
        if not self._prefix:
            raise InputError(f"{address!r} names no bucket: expected s3://bucket/prefix.")
        # Listings must show what is there now.
        once = {"retries": {"total_max_attempts": 1}}
        self._files = s3fs.S3FileSystem(use_listings_cache=False, config_kwargs=once)
        self._files.retries = 1

    @property
    def address(self) -> str:
        return f"s3://{self._prefix}"

    def create(self, key: str, data: bytes) -> None:
        self._try(
            "write",
            key,
            lambda: self._files.pipe_file(self._path(key), data, chunksize=_PART_BYTES, mode="create"),
        )

    def get(self, key: str) -> bytes:
        # One request; s3fs would ask for the size first, to read in parallel.
        return self._try("read", key, lambda: bytes(self._files.cat_file(self._path(key), max_concurrency=1)))

    def get_range(self, key: str, start: int, length: int) -> bytes:
        if not length:
            return b""
        end = start + length
        return self._try("read", key, lambda: self._range(self._path(key), start, end))

    def size(self, key: str) -> int:
        found = self._try("read", key, lambda: self._files.call_s3("head_object", **self._bucket_and_key(key)))
        return int(found["ContentLength"])

    def list(self, prefix: str) -> list[str]:
        return sorted(self._try("list", prefix, lambda: list(self._listed(prefix))))

    def delete(self, key: str) -> None:
        try:
            self._try("delete", key, lambda: self._files.call_s3("delete_object", **self._bucket_and_key(key)))
        except ObjectMissing:
            return

    def local_path(self, key: str) -> Path | None:
        return None

    def _range(self, path: str, start: int, end: int) -> bytes:
        try:
            return bytes(self._files.cat_file(path, start=start, end=end))
        except OSError as error:
            if _status_and_code(error)[0] == _PAST_THE_END:
                return b""
            raise

    def _listed(self, prefix: str) -> Iterator[str]:
        bucket, _, start = self._path(prefix).partition("/")
        request = {"Bucket": bucket, "Prefix": start}
        while True:
            page = self._files.call_s3("list_objects_v2", **request)
            for found in page.get("Contents", []):
                yield f"{bucket}/{found['Key']}".removeprefix(f"{self._prefix}/")
            if not page.get("IsTruncated"):
                return
            request["ContinuationToken"] = page["NextContinuationToken"]

    def _try(self, action: str, key: str, request: Callable[[], Answer]) -> Answer:
        """The answer of a request, asked again while that may help. `refused` is that of all tries together."""
        certain = True
        for number in range(_TRIES):
            try:
                return request()
            except _FAILURES as error:
                final = _is_final(error)
                certain = certain and final
                if final or number == _TRIES - 1:
                    raise self._error(action, key, error, certain) from error
            except ValueError as error:  # botocore's, of an address that is none
                raise InputError(f"AWS_ENDPOINT_URL: {error}. Expected such as https://host:port.") from error
            time.sleep(random.uniform(0, _PAUSE_SECONDS * 2**number))
        raise AssertionError("the last try returns or raises")

    def _path(self, key: str) -> str:
        return f"{self._prefix}/{key}"

    def _bucket_and_key(self, key: str) -> dict[str, str]:
        bucket, _, inside = self._path(key).partition("/")
        return {"Bucket": bucket, "Key": inside}

    def _error(self, action: str, key: str, error: Exception, certain: bool) -> StorageError:
        status, code = _status_and_code(error)
        what = f"Could not {action} {self.address}/{key}"
        if code == "NoSuchBucket":
            bucket = self._prefix.partition("/")[0]
            return StorageError(f"{what}: the bucket {bucket} does not exist. Make it, or correct it.", refused=certain)
        if status == _TAKEN or isinstance(error, FileExistsError):
            return ObjectExists(f"{self.address}/{key} exists already; objects are never overwritten.")
        if isinstance(error, FileNotFoundError) and code != _NO_UPLOAD:
            return ObjectMissing(f"{self.address} has no object {key}.")
        if status in _DENIED:
            advice = "Check the credentials, what they may do in this bucket, and this machine's clock."
            return StorageError(f"{what}: access denied ({code or status}). {advice}", refused=certain)
        advice = "Check the bucket, the credentials and AWS_ENDPOINT_URL, then run again."
        return StorageError(f"{what}: {error}. {advice}", refused=certain)


def _is_final(error: Exception) -> bool:
    """Whether another try would end the same way: the store answered no, or was not even asked."""
    status, code = _status_and_code(error)
    refused = status is not None and status < 500 and status not in _MAY_PASS and code != _NO_UPLOAD
    return refused or isinstance(error, (FileExistsError, *_NOT_SENT))


def _status_and_code(error: BaseException) -> tuple[int | None, str]:
    """The HTTP status and S3's error code; None where no answer came."""
    # s3fs maps a failed condition to FileExistsError or to a bare OSError, depending on the server.
    response: Any = getattr(error.__cause__, "response", None) or getattr(error, "response", None)
    if not isinstance(response, dict):
        return (404, "") if isinstance(error, FileNotFoundError) else (None, "")
    return response["ResponseMetadata"]["HTTPStatusCode"], str(response.get("Error", {}).get("Code", ""))

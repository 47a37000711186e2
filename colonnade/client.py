"""A client of the server, sync and async, with the same methods: typed answers, and retries that ask when they may.

    with Client("http://127.0.0.1:8080") as colonnade:
        for hit in colonnade.search("Who makes honey?", k=3).hits:
            print(hit.score, hit.text)

A busy server (503) is asked again when its Retry-After has passed, and one that cannot be reached a moment later; one
that says to come back later than anybody waits is left alone. A change that was sent and
not answered is not sent again, for it may have been made.
Every request is written once, in `Methods`, and both clients have it; what comes back is in `answers.py`.
"""

from __future__ import annotations

import asyncio
import random
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import wraps
from types import TracebackType
from typing import Any, Generic, Literal, ParamSpec, Self, TypedDict, TypeVar, Unpack, overload
from urllib.parse import urlencode

import httpx
import msgspec

from colonnade.answers import (
    Answer,
    Answers,
    Columns,
    Documents,
    IndexDescription,
    Reordered,
    Vectors,
    Versions,
    Written,
)

Given = ParamSpec("Given")
Result = TypeVar("Result")

_AGAIN = {429, 503}
_LONGEST_SECONDS = 30.0
_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


class Refused(Exception):
    """The server did not answer. status: of HTTP; code: for programs, as the server documents it.

    detail: the faults of a malformed request, each with `loc`, `msg` and `type`. request_id: under which the server
    logged it. retry_after: seconds after which it says to come back.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        detail: Sequence[Mapping[str, Any]] = (),
        request_id: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(f"{code}: {message}")
        self.status = status
        self.code = code
        self.detail = list(detail)
        self.request_id = request_id
        self.retry_after = retry_after


class OfVersion(TypedDict, total=False):
    """From which version to answer, exactly or at least; and for how long to wait for the answer."""

    version: int | None
    min_version: int | None
    timeout_ms: int | None


class Question(TypedDict, total=False):
    """How to search: the fields of a question beside its text."""

    vectors: Sequence[Sequence[float]] | None
    k: int
    offset: int
    recall: Literal["fast", "balanced", "exact"]
    filter: Mapping[str, object] | None
    explain: bool
    fields: Sequence[Literal["title", "text", "metadata"]] | None
    hybrid: Mapping[str, object] | None


class TextQuestion(Question, total=False):
    """A question of several: its text too."""

    query: str | None


class SearchOptions(Question, OfVersion, total=False):
    """All that a search takes beside its text."""


@dataclass(frozen=True, slots=True)
class Call(Generic[Result]):
    """One request and the type of its answer. Fields of the body that are None are not sent.

    changes: whether it changes the index, and so is not sent again while it may be under way.
    """

    method: str
    path: str
    body: Mapping[str, object] | None
    returns: type[Result]
    changes: bool = False

    def arguments(self) -> dict[str, Any]:
        """As httpx takes them."""
        body = None if self.body is None else {name: value for name, value in self.body.items() if value is not None}
        return {"method": self.method, "url": self.path, "json": body}

    def result(self, response: httpx.Response) -> Result:
        """The typed answer. Raises Refused."""
        if response.is_success:
            return msgspec.json.decode(response.content, type=self.returns)
        try:
            told = response.json()
            code, message, detail = told["code"], told["message"], told.get("detail") or ()
        except (ValueError, KeyError, TypeError, AttributeError):  # of a proxy in between
            code, message, detail = "unknown", response.reason_phrase, ()
        raise Refused(
            response.status_code,
            code,
            message,
            detail=detail,
            request_id=response.headers.get("X-Request-Id"),
            retry_after=retry_after(response),
        )


class Method(Generic[Given, Result]):
    """A method of both clients, from a function that makes its request: `Client` waits, `AsyncClient` is awaited."""

    def __init__(self, make: Callable[Given, Call[Result]]) -> None:
        self.make = make
        self.__doc__ = make.__doc__

    @overload
    def __get__(self, client: None, kind: type) -> Self: ...
    @overload
    def __get__(self, client: Client, kind: type) -> Callable[Given, Result]: ...
    @overload
    def __get__(self, client: AsyncClient, kind: type) -> Callable[Given, Awaitable[Result]]: ...
    def __get__(self, client: Client | AsyncClient | None, kind: type) -> object:
        if client is None:
            return self

        @wraps(self.make)
        def ask(*args: Given.args, **options: Given.kwargs) -> object:
            return client.send(self.make(*args, **options))

        return ask


def retry_after(response: httpx.Response) -> float | None:
    """Seconds after which the server, or a proxy before it, says to come back, as seconds or as a date of HTTP."""
    told = response.headers.get("Retry-After", "").strip()
    if told.isdecimal():
        return float(told)
    try:
        return max(0.0, (parsedate_to_datetime(told).astimezone(UTC) - datetime.now(UTC)).total_seconds())
    except ValueError:
        return None


class Methods:
    """Every request that there is; `/docs` of the server says more of their fields."""

    @Method
    @staticmethod
    def search(query: str | None = None, **options: Unpack[SearchOptions]) -> Call[Answer]:
        """The best passages for a text, or for `vectors`."""
        return Call("POST", "v1/search", {"query": query, **options}, Answer)

    @Method
    @staticmethod
    def batch_search(queries: Sequence[TextQuestion], **options: Unpack[OfVersion]) -> Call[Answers]:
        """Several questions, each with the fields of a search; answered from one version."""
        return Call("POST", "v1/batch-search", {"queries": list(queries), **options}, Answers)

    @Method
    @staticmethod
    def rerank(query: str, texts: Sequence[str], **options: Unpack[OfVersion]) -> Call[Reordered]:
        """Texts that need not be in the index, best first."""
        return Call("POST", "v1/rerank", {"query": query, "texts": list(texts), **options}, Reordered)

    @Method
    @staticmethod
    def encode(texts: Sequence[str], *, timeout_ms: int | None = None) -> Call[Vectors]:
        """The token vectors of queries, as `search` takes them."""
        return Call("POST", "v1/encode", {"texts": list(texts), "timeout_ms": timeout_ms}, Vectors)

    @Method
    @staticmethod
    def fetch(ids: Sequence[str], **options: Unpack[OfVersion]) -> Call[Documents]:
        """Documents by their ids; those that are not there are left out."""
        return Call("POST", "v1/documents/fetch", {"ids": list(ids), **options}, Documents)

    @Method
    @staticmethod
    def index() -> Call[IndexDescription]:
        """What is being served."""
        return Call("GET", "v1/index", None, IndexDescription)

    @Method
    @staticmethod
    def columns(**options: Unpack[OfVersion]) -> Call[Columns]:
        """What filters may name."""
        given = urlencode({name: value for name, value in options.items() if value is not None})
        return Call("GET", f"v1/columns?{given}" if given else "v1/columns", None, Columns)

    @Method
    @staticmethod
    def versions(limit: int = 20) -> Call[Versions]:
        """The newest `limit` versions that the index retains."""
        return Call("GET", f"v1/versions?limit={limit}", None, Versions)

    @Method
    @staticmethod
    def add(documents: Sequence[Mapping[str, object]]) -> Call[Written]:
        """Add documents, or replace those with their ids: id, text, and perhaps title and metadata of each."""
        return Call("POST", "v1/documents", {"documents": list(documents)}, Written, changes=True)

    @Method
    @staticmethod
    def delete(
        ids: Sequence[str] | None = None,
        *,
        filter: Mapping[str, object] | None = None,  # noqa: A002  # the API's word
    ) -> Call[Written]:
        """Delete documents by id, or all that match a filter."""
        body = {"ids": None if ids is None else list(ids), "filter": filter}
        return Call("POST", "v1/documents/delete", body, Written, changes=True)


@dataclass(frozen=True, slots=True)
class _Retries:
    """When to ask again. What changes the index is sent again only where it cannot have arrived, or was refused."""

    attempts: int

    def after(self, attempt: int, response: httpx.Response) -> float | None:
        """Seconds to wait before the next attempt, or None where this answer settles it. attempt: from 0."""
        if response.status_code not in _AGAIN:
            return None
        return self._pause(attempt, retry_after(response))

    def after_error(self, attempt: int, error: httpx.TransportError, call: Call[Any]) -> float | None:
        """The same where no answer came."""
        if call.changes and not isinstance(error, _NOT_SENT):
            return None
        return self._pause(attempt, None)

    def _pause(self, attempt: int, told: float | None) -> float | None:
        least = min(0.1 * 2**attempt, _LONGEST_SECONDS) if told is None else told
        # To come earlier than told would break what the server asked for: then there is no other attempt.
        if attempt + 1 >= self.attempts or least > _LONGEST_SECONDS:
            return None
        # Those that were refused together must not come back together.
        return least * random.uniform(1, 1.25)


def _settings(key: str | None, timeout: float, verify: bool | ssl.SSLContext) -> dict[str, Any]:
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    return {"headers": headers, "timeout": timeout, "verify": verify}


class Client(Methods):
    """Asks a server and waits. Safe to use from several threads.

    key: where the server asks for one. timeout: seconds that the server may be silent in an attempt. attempts: 1 never
    asks again. verify: as httpx has it, for a certificate of one's own.
    """

    def __init__(
        self,
        address: str,
        *,
        key: str | None = None,
        timeout: float = 30.0,
        attempts: int = 5,
        verify: bool | ssl.SSLContext = True,
    ) -> None:
        self._http = httpx.Client(base_url=address, **_settings(key, timeout, verify))
        self._retries = _Retries(attempts)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def send(self, call: Call[Result]) -> Result:
        """Send a request, again where that helps. Raises Refused, and httpx.TransportError without an answer."""
        attempt = 0
        while True:
            try:
                response = self._http.request(**call.arguments())
            except httpx.TransportError as error:
                pause = self._retries.after_error(attempt, error, call)
                if pause is None:
                    raise
            else:
                pause = self._retries.after(attempt, response)
                if pause is None:
                    return call.result(response)
            time.sleep(pause)
            attempt += 1


class AsyncClient(Methods):
    """The same for asyncio: each method is awaited."""

    def __init__(
        self,
        address: str,
        *,
        key: str | None = None,
        timeout: float = 30.0,
        attempts: int = 5,
        verify: bool | ssl.SSLContext = True,
    ) -> None:
        self._http = httpx.AsyncClient(base_url=address, **_settings(key, timeout, verify))
        self._retries = _Retries(attempts)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()

    async def send(self, call: Call[Result]) -> Result:
        """As Client.send."""
        attempt = 0
        while True:
            try:
                response = await self._http.request(**call.arguments())
            except httpx.TransportError as error:
                pause = self._retries.after_error(attempt, error, call)
                if pause is None:
                    raise
            else:
                pause = self._retries.after(attempt, response)
                if pause is None:
                    return call.result(response)
            await asyncio.sleep(pause)
            attempt += 1

"""A client of the server, sync and async, with the same methods: typed answers, and retries that ask when they may.

    with Client("http://127.0.0.1:8080") as colonnade:
        for hit in colonnade.search("Who makes honey?", k=3).hits:
            print(hit.score, hit.text)

A busy server (503) is asked again when its Retry-After has passed, and one that cannot be reached a moment later.
Every request is written once, in `Methods`, and both clients have it; what comes back is in `answers.py`.
"""

from __future__ import annotations

import asyncio
import random
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from types import TracebackType
from typing import Any, Generic, ParamSpec, Self, TypeVar, overload

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


class Refused(Exception):
    """The server did not answer. status: of HTTP; code: for programs, as the server documents it."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.status = status
        self.code = code


@dataclass(frozen=True, slots=True)
class Call(Generic[Result]):
    """One request and the type of its answer. Fields of the body that are None are not sent."""

    method: str
    path: str
    body: Mapping[str, object] | None
    returns: type[Result]

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
            raise Refused(response.status_code, told["code"], told["message"])
        except (ValueError, KeyError, TypeError):
            raise Refused(response.status_code, "unknown", response.reason_phrase) from None


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


class Methods:
    """Every request that there is. `options` are the other fields of the body, as `/docs` of the server lists them."""

    @Method
    @staticmethod
    def search(query: str | None = None, **options: object) -> Call[Answer]:
        """The best passages for a text, or for `vectors`: k, offset, recall, filter, hybrid, explain, min_version."""
        return Call("POST", "v1/search", {"query": query, **options}, Answer)

    @Method
    @staticmethod
    def batch_search(queries: Sequence[Mapping[str, object]], **options: object) -> Call[Answers]:
        """Several questions, each with the fields of a search; answered from one version."""
        return Call("POST", "v1/batch-search", {"queries": list(queries), **options}, Answers)

    @Method
    @staticmethod
    def rerank(query: str, texts: Sequence[str]) -> Call[Reordered]:
        """Texts that need not be in the index, best first."""
        return Call("POST", "v1/rerank", {"query": query, "texts": list(texts)}, Reordered)

    @Method
    @staticmethod
    def encode(texts: Sequence[str], **options: object) -> Call[Vectors]:
        """The token vectors of queries, as `search` takes them."""
        return Call("POST", "v1/encode", {"texts": list(texts), **options}, Vectors)

    @Method
    @staticmethod
    def fetch(ids: Sequence[str]) -> Call[Documents]:
        """Documents by their ids; those that are not there are left out."""
        return Call("POST", "v1/documents/fetch", {"ids": list(ids)}, Documents)

    @Method
    @staticmethod
    def index() -> Call[IndexDescription]:
        """What is being served."""
        return Call("GET", "v1/index", None, IndexDescription)

    @Method
    @staticmethod
    def columns() -> Call[Columns]:
        """What filters may name."""
        return Call("GET", "v1/columns", None, Columns)

    @Method
    @staticmethod
    def versions(limit: int = 20) -> Call[Versions]:
        """The newest `limit` versions that the index retains."""
        return Call("GET", f"v1/versions?limit={limit}", None, Versions)

    @Method
    @staticmethod
    def add(documents: Sequence[Mapping[str, object]]) -> Call[Written]:
        """Add documents, or replace those with their ids: id, text, and perhaps title and metadata of each."""
        return Call("POST", "v1/documents", {"documents": list(documents)}, Written)

    @Method
    @staticmethod
    def delete(
        ids: Sequence[str] | None = None,
        *,
        filter: Mapping[str, object] | None = None,  # noqa: A002  # the API's word
    ) -> Call[Written]:
        """Delete documents by id, or all that match a filter."""
        body = {"ids": None if ids is None else list(ids), "filter": filter}
        return Call("POST", "v1/documents/delete", body, Written)


@dataclass(frozen=True, slots=True)
class _Retries:
    """When to ask again. Every request may be sent twice: to add or delete the same again changes nothing."""

    attempts: int

    def pause(self, attempt: int, response: httpx.Response | None) -> float | None:
        """Seconds to wait before the next attempt, or None where this one settles it. attempt: from 0."""
        if attempt + 1 >= self.attempts or (response is not None and response.status_code not in _AGAIN):
            return None
        told = "" if response is None else response.headers.get("Retry-After", "")
        least = float(told) if told.isdecimal() else 0.1 * 2**attempt
        # Those that were refused together must not come back together.
        return min(least, _LONGEST_SECONDS) * random.uniform(1, 1.25)


def _settings(key: str | None, timeout: float, verify: bool | ssl.SSLContext) -> dict[str, Any]:
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    return {"headers": headers, "timeout": timeout, "verify": verify}


class Client(Methods):
    """Asks a server and waits. Safe to use from several threads.

    key: where the server asks for one. timeout: seconds that one attempt may take. attempts: 1 never asks again.
    verify: as httpx has it, for a certificate of one's own.
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
            response = None
            try:
                response = self._http.request(**call.arguments())
                pause = self._retries.pause(attempt, response)
            except httpx.TransportError:
                pause = self._retries.pause(attempt, None)
                if pause is None:
                    raise
            if pause is None and response is not None:
                return call.result(response)
            time.sleep(pause or 0)
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
            response = None
            try:
                response = await self._http.request(**call.arguments())
                pause = self._retries.pause(attempt, response)
            except httpx.TransportError:
                pause = self._retries.pause(attempt, None)
                if pause is None:
                    raise
            if pause is None and response is not None:
                return call.result(response)
            await asyncio.sleep(pause or 0)
            attempt += 1

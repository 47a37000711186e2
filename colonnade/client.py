"""A client of the server, sync and async, with the same methods: typed answers, and retries that ask when they may.

    with Client("http://127.0.0.1:8080") as colonnade:
        for hit in colonnade.search("Who makes honey?", k=3).hits:
            print(hit.score, hit.text)

A busy server (503) is asked again when its Retry-After has passed, and one that cannot be reached a moment later.
"""

from __future__ import annotations

import asyncio
import random
import ssl
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import httpx
import msgspec

Result = TypeVar("Result")

_AGAIN = {429, 503}
_LONGEST_SECONDS = 30.0


class Fused(msgspec.Struct, frozen=True):
    """The two sides of a hybrid search: scores, and the rank among the best of each, from 1, if it is one of them."""

    maxsim: float
    maxsim_rank: int | None
    bm25: float
    bm25_rank: int | None


class Hit(msgspec.Struct, frozen=True):
    """A passage that was found. start, end: characters of its document. What `fields` left out is None."""

    document_id: str
    passage: int
    score: float
    start: int
    end: int
    title: str | None = None
    text: str | None = None
    metadata: dict[str, Any] | None = None
    fused: Fused | None = None


class Answer(msgspec.Struct, frozen=True):
    """Hits, best first, the index version that they are from, and the milliseconds that they took."""

    version: int
    hits: list[Hit]
    recall: str
    scored: int
    queue_ms: float
    encode_ms: float
    search_ms: float
    explanation: dict[str, Any] | None = None


class Answers(msgspec.Struct, frozen=True):
    """The answers to several questions, in their order, from one version."""

    version: int
    answers: list[Answer]


class Vectors(msgspec.Struct, frozen=True):
    """Token vectors, [texts, tokens, dim]."""

    encoder: str
    dim: int
    vectors: list[list[list[float]]]


class Document(msgspec.Struct, frozen=True):
    """A document as it was given."""

    document_id: str
    text: str
    title: str | None = None
    metadata: dict[str, Any] = {}


class Documents(msgspec.Struct, frozen=True):
    """The documents that are there, in the order of the ids."""

    version: int
    documents: list[Document]


class IndexDescription(msgspec.Struct, frozen=True):
    """What is being served. set_aside: why a newer version is not."""

    index: str
    version: int
    published_at: str
    documents: int
    passages: int
    segments: int
    encoder: str
    dim: int
    bits: int
    set_aside: str | None = None


class Written(msgspec.Struct, frozen=True):
    """What a change did. version: one that has it, for `min_version`."""

    version: int
    added: int = 0
    changed: int = 0
    unchanged: int = 0
    deleted: int = 0
    rejected: list[dict[str, Any]] = []


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


class _Calls:
    """Every request that there is; how it is sent is for `Client` and `AsyncClient`."""

    @staticmethod
    def search(query: str | None, **options: object) -> Call[Answer]:
        return Call("POST", "v1/search", {"query": query, **options}, Answer)

    @staticmethod
    def batch_search(queries: Sequence[Mapping[str, object]], **options: object) -> Call[Answers]:
        return Call("POST", "v1/batch-search", {"queries": list(queries), **options}, Answers)

    @staticmethod
    def encode(texts: Sequence[str]) -> Call[Vectors]:
        return Call("POST", "v1/encode", {"texts": list(texts)}, Vectors)

    @staticmethod
    def fetch(ids: Sequence[str]) -> Call[Documents]:
        return Call("POST", "v1/documents/fetch", {"ids": list(ids)}, Documents)

    @staticmethod
    def index() -> Call[IndexDescription]:
        return Call("GET", "v1/index", None, IndexDescription)

    @staticmethod
    def add(documents: Sequence[Mapping[str, object]]) -> Call[Written]:
        return Call("POST", "v1/documents", {"documents": list(documents)}, Written)

    @staticmethod
    def delete(ids: Sequence[str]) -> Call[Written]:
        return Call("POST", "v1/documents/delete", {"ids": list(ids)}, Written)


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


class Client:
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

    def search(self, query: str | None = None, **options: object) -> Answer:
        """The best passages for a text, or for `vectors`. options: the other fields of POST /v1/search."""
        return self._send(_Calls.search(query, **options))

    def batch_search(self, queries: Sequence[Mapping[str, object]], **options: object) -> Answers:
        """Several questions, each with the fields of a search; answered from one version."""
        return self._send(_Calls.batch_search(queries, **options))

    def encode(self, texts: Sequence[str]) -> Vectors:
        """The token vectors of queries."""
        return self._send(_Calls.encode(texts))

    def fetch(self, ids: Sequence[str]) -> Documents:
        """Documents by their ids; those that are not there are left out."""
        return self._send(_Calls.fetch(ids))

    def index(self) -> IndexDescription:
        """What is being served."""
        return self._send(_Calls.index())

    def add(self, documents: Sequence[Mapping[str, object]]) -> Written:
        """Add documents, or replace those with their ids: id, text, and perhaps title and metadata of each."""
        return self._send(_Calls.add(documents))

    def delete(self, ids: Sequence[str]) -> Written:
        """Delete documents by id."""
        return self._send(_Calls.delete(ids))

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _send(self, call: Call[Result]) -> Result:
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


class AsyncClient:
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

    async def search(self, query: str | None = None, **options: object) -> Answer:
        """As Client.search."""
        return await self._send(_Calls.search(query, **options))

    async def batch_search(self, queries: Sequence[Mapping[str, object]], **options: object) -> Answers:
        """As Client.batch_search."""
        return await self._send(_Calls.batch_search(queries, **options))

    async def encode(self, texts: Sequence[str]) -> Vectors:
        """As Client.encode."""
        return await self._send(_Calls.encode(texts))

    async def fetch(self, ids: Sequence[str]) -> Documents:
        """As Client.fetch."""
        return await self._send(_Calls.fetch(ids))

    async def index(self) -> IndexDescription:
        """As Client.index."""
        return await self._send(_Calls.index())

    async def add(self, documents: Sequence[Mapping[str, object]]) -> Written:
        """As Client.add."""
        return await self._send(_Calls.add(documents))

    async def delete(self, ids: Sequence[str]) -> Written:
        """As Client.delete."""
        return await self._send(_Calls.delete(ids))

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()

    async def _send(self, call: Call[Result]) -> Result:
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

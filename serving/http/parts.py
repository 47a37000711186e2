"""What the routes work with, put together once by `make_app`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from index_format.filters import Filter
from serving.batcher import Batcher, Overloaded
from serving.http.telling import Afterwards
from serving.metrics import Metrics
from serving.refresher import Refresher
from serving.searcher import Searcher
from serving.shadow import ShadowCheck

DEADLINE_MS = 10_000


@dataclass(frozen=True, slots=True)
class Settings:
    """Numbers that an operator may want otherwise.

    refresh_seconds: how often a newer version is looked for. deadline_ms: how long a request may take, at most.
    queue_limit: how many queries may wait, and as many requests for a version. body_bytes, body_seconds: of one
    request. shadow_share: of the queries whose recall is checked afterwards. tenant_column: the metadata column that
    tells whose a document is.
    """

    refresh_seconds: float = 1.0
    deadline_ms: int = DEADLINE_MS
    queue_limit: int = 256
    body_bytes: int = 4 * 2**20
    body_seconds: float = 10.0
    shadow_share: float = 0.0
    tenant_column: str | None = None


@dataclass(frozen=True, slots=True)
class NewDocument:
    """A document as a client gives it."""

    id: str
    text: str
    title: str | None
    metadata: dict[str, object]


@dataclass(frozen=True, slots=True)
class Written:
    """What a change did. version: one that has it. rejected: documents that cannot be indexed, with their reasons."""

    version: int
    added: int = 0
    changed: int = 0
    unchanged: int = 0
    deleted: int = 0
    rejected: tuple[dict[str, object], ...] = ()


class Writer(Protocol):
    """Who changes the index: not this package, which only answers."""

    def add(self, documents: list[NewDocument]) -> Written:
        """Add documents, or replace those with their ids, as one new version."""
        ...

    def delete(self, ids: list[str]) -> Written:
        """Delete documents by id, as one new version."""
        ...

    def delete_matching(self, matching: Filter) -> Written:
        """Delete the documents that match a filter, as one new version. Raises InputError when it does not fit."""
        ...


class Waiters:
    """How many requests wait for something else than the batcher: bounded, as its queue is. Of the event loop alone."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._waiting = 0

    @contextmanager
    def one_more(self) -> Iterator[None]:
        """Count a request while it waits. Raises Overloaded where too many do."""
        if self._waiting >= self._limit:
            raise Overloaded(1.0)
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of a running server. address: the index's, as the user typed it.

    opening: the one thread for what reads for seconds (old versions, words), so that it keeps no other from working.
    """

    searcher: Searcher
    address: str
    settings: Settings
    metrics: Metrics
    batcher: Batcher
    refresher: Refresher
    shadow: ShadowCheck
    waiters: Waiters
    opening: ThreadPoolExecutor
    afterwards: Afterwards

    def deadline(self, timeout_ms: int | None) -> float:
        """The moment, of `time.monotonic`, at which a request that came now is worth nothing any more."""
        return time.monotonic() + min(timeout_ms or self.settings.deadline_ms, self.settings.deadline_ms) / 1000

"""What is counted and logged of a request, once its answer has left: no client waits for it."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fastapi import Request

from serving.keys import Key
from serving.metrics import Metrics

_LATER_SECONDS = 0.05
_AT_ONCE = 8  # of what is put off, before the event loop turns to others
_log = logging.getLogger("colonnade.http")


@dataclass(frozen=True, slots=True)
class Told:
    """What is counted and logged of a request. more: of its answer, without any text."""

    route: str
    status: int
    seconds: float
    request_id: str | None
    key: Key | None
    more: Mapping[str, object]


def tell(metrics: Metrics, told: Told) -> None:
    """Count a request, and write its line in the log where it has an id."""
    metrics.http.labels(told.route).observe(told.seconds)
    metrics.responses.labels(told.route, told.status).inc()
    if told.request_id is not None:
        key = told.key.id if told.key else None
        line = {"request_id": told.request_id, "route": told.route, "status": told.status, "key": key}
        line |= {**told.more, "total_ms": round(1000 * told.seconds, 3)}
        _log.info("request", extra={"line": line})


def tell_later(request: Request, route: str, status: int, metrics: Metrics, seconds: float) -> None:
    """Tell of a request after this step of the event loop, which sends the answer."""
    asyncio.get_running_loop().call_soon(_tell, request, route, status, metrics, seconds)


def _tell(request: Request, route: str, status: int, metrics: Metrics, seconds: float) -> None:
    state = request.state
    request_id, key, more = (getattr(state, name, None) for name in ("request_id", "key", "told"))
    tell(metrics, Told(route, status, seconds, request_id, key, more or {}))


class Afterwards:
    """Work that is put off for a moment, and then done together: each by itself takes five times as long.

    After a search the CPU's caches hold nothing of it, and where cores are scarce whoever is to read the answer waits
    for the core. Of the event loop alone.
    """

    def __init__(self) -> None:
        self._works: deque[Callable[[], None]] = deque()
        self._is_due = False

    def add(self, work: Callable[[], None]) -> None:
        """Do something within the next moments."""
        self._works.append(work)
        if not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_later(_LATER_SECONDS, self._do_some)

    def do_all(self) -> None:
        """Do now what was put off: somebody is about to look."""
        while self._works:
            self._works.popleft()()

    def _do_some(self) -> None:
        self._is_due = False
        try:
            for _ in range(min(_AT_ONCE, len(self._works))):
                self._works.popleft()()
        finally:
            if self._works and not self._is_due:
                self._is_due = True
                asyncio.get_running_loop().call_soon(self._do_some)

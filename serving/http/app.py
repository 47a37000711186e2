"""The HTTP server, put together: its routes are in the files beside this one."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

from fastapi import FastAPI, Request
from starlette.types import Message, Receive, Scope, Send

from serving.batcher import Batcher
from serving.faults import places_of
from serving.http import contents, documents, errors, health, index, pages, search
from serving.http.at_once import Visit
from serving.http.parts import Parts, Settings, Waiters, Writer
from serving.http.plain import PlainCycle
from serving.http.routes import REQUEST_ID, Gate, ScopedRoute, request_id_of
from serving.http.telling import Afterwards, tell_later
from serving.keys import KeyRing
from serving.metrics import Metrics
from serving.refresher import Refresher
from serving.searcher import Searcher
from serving.shadow import ShadowCheck
from serving.snapshot import Snapshot

_UNROUTED = "unrouted"  # in the place of a path that no route has: strangers choose those
_log = logging.getLogger("colonnade.http")


def make_app(
    searcher: Searcher,
    address: str,
    settings: Settings | None = None,
    *,
    keys: KeyRing | None = None,
    writer: Writer | None = None,
    hosts: frozenset[str] | None = None,
) -> FastAPI:
    """The application that answers from `searcher` and follows its index. Without `keys` everybody may ask.

    hosts: the names by which it may be asked, as `Host` has them without a port; any, where none are given.
    """
    parts = _parts(searcher, address, settings or Settings())

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        asyncio.get_running_loop().set_exception_handler(_tell_fault)
        for part in (parts.batcher, parts.shadow, parts.refresher):
            part.start()
        yield
        # Whoever runs the application calls this after the last answer, so nothing waits here any more.
        for part in (parts.refresher, parts.batcher, parts.shadow):
            part.stop()
        parts.afterwards.do_all()
        parts.opening.shutdown(wait=False, cancel_futures=True)

    # FastAPI's own pages load scripts from the internet, and its routes declare no scope.
    app = _Server(
        title="Colonnade",
        version="1",
        lifespan=lifespan,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        responses=errors.RESPONSES,
    )
    app.router.route_class = ScopedRoute
    app.state.gate = Gate(keys, hosts, parts.metrics, parts.settings, parts.batcher, parts.afterwards)
    errors.install(app)
    search.add_routes(app, parts)
    index.add_routes(app, parts)
    contents.add_routes(app, parts)
    health.add_routes(app, parts)
    pages.add_routes(app, with_keys=keys is not None)
    if writer is not None:
        documents.add_routes(app, parts, writer)
    app.send_past_layers()
    return app


class _Server(FastAPI):
    """FastAPI, past whose layers questions go: those are there for what such a route does not have, or does itself."""

    _queued: Mapping[str, ScopedRoute] = {}

    def send_past_layers(self) -> None:
        """Send requests of those routes that ask the worker past the layers, once all routes are there."""
        self._queued = {one.path: one for one in self.routes if isinstance(one, ScopedRoute) and one.is_queued}

    def answer_at_once(self, cycle: PlainCycle) -> bool:
        """Begin to answer a question for which everything is at hand; others are left to ASGI."""
        route = self._queued.get(cycle.head.path)
        return route is not None and Visit(route, self.state.gate, cycle).begin()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = self._queued.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if route is not None:
            scope["app"] = self
            await route.past_layers(scope, receive, send)
        elif scope["type"] == "http":
            await self._through_layers(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)

    async def _through_layers(self, scope: Scope, receive: Receive, send: Send) -> None:
        """HEAD is answered as GET, without the body, which is not sent. What no route takes is told of here."""
        if scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}
        request, start = Request(scope), time.perf_counter()
        state, gate = request.state, self.state.gate

        async def send_and_tell(message: Message) -> None:
            if message["type"] == "http.response.start" and not hasattr(state, "told"):
                state.request_id = request_id_of(request.headers)
                message["headers"] = [*message["headers"], (REQUEST_ID, state.request_id.encode())]
                tell_later(request, _UNROUTED, message["status"], gate.metrics, time.perf_counter() - start)
            await send(message)

        await super().__call__(scope, receive, send_and_tell)


def _parts(searcher: Searcher, address: str, settings: Settings) -> Parts:
    metrics = Metrics()

    def swapped(snapshot: Snapshot) -> None:
        metrics.swaps.inc()
        committed = datetime.fromisoformat(snapshot.manifest.commit.created_at)
        metrics.commit_to_served.set(max(0.0, time.time() - committed.timestamp()))

    def failed() -> None:
        metrics.faults.labels("refresh").inc()

    _tell_state(metrics, searcher)
    return Parts(
        searcher=searcher,
        address=address,
        settings=settings,
        metrics=metrics,
        batcher=Batcher(searcher.encode, metrics, settings.queue_limit),
        refresher=Refresher(searcher, settings.refresh_seconds, on_swap=swapped, on_fault=failed),
        shadow=ShadowCheck(searcher, metrics, settings.shadow_share),
        waiters=Waiters(settings.queue_limit),
        opening=ThreadPoolExecutor(1, thread_name_prefix="colonnade-opening"),
        afterwards=Afterwards(),
    )


def _tell_state(metrics: Metrics, searcher: Searcher) -> None:
    """Have the metrics ask for what is true at the moment at which they are read."""
    metrics.version.set_function(lambda: searcher.snapshot.version)
    metrics.newest_version.set_function(lambda: searcher.newest)
    metrics.lag.set_function(searcher.lag_seconds)
    metrics.documents.set_function(lambda: searcher.snapshot.manifest.documents)
    metrics.passages.set_function(lambda: searcher.snapshot.manifest.passages)
    metrics.set_aside.set_function(lambda: searcher.fault is not None)
    metrics.index_bytes.set_function(lambda: sum(file.size for file in searcher.snapshot.manifest.files()))
    metrics.file_cache_bytes.set_function(searcher.files.used_bytes)
    metrics.read_files(searcher.files.counts)
    metrics.filter_bytes.set_function(lambda: searcher.snapshot.matches.bytes)
    metrics.read_filter_lookups(lambda: searcher.snapshot.matches.lookups)
    if searcher.uses_gpu:
        metrics.gpu_bytes.labels("allocated").set_function(lambda: searcher.gpu_memory().allocated)
        metrics.gpu_bytes.labels("reserved").set_function(lambda: searcher.gpu_memory().reserved)
        metrics.gpu_bytes.labels("free").set_function(lambda: searcher.gpu_memory().free)


def _tell_fault(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """asyncio's own handler prints the error's message, which may quote a text."""
    error = context.get("exception")
    _log.error("the event loop met %s", context.get("message") if error is None else places_of(error))

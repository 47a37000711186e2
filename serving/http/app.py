"""The HTTP server, put together: its routes are in the files beside this one."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime

from fastapi import FastAPI

from serving.batcher import Batcher
from serving.http import contents, documents, errors, health, index, pages, search
from serving.http.parts import Parts, Settings, Writer
from serving.http.routes import Gate, ScopedRoute
from serving.keys import KeyRing
from serving.metrics import Metrics
from serving.searcher import Refresher, Searcher
from serving.shadow import ShadowCheck
from serving.snapshot import Snapshot


def make_app(
    searcher: Searcher,
    address: str,
    settings: Settings | None = None,
    *,
    keys: KeyRing | None = None,
    writer: Writer | None = None,
) -> FastAPI:
    """The application that answers from `searcher` and follows its index. Without `keys` everybody may ask."""
    parts = _parts(searcher, address, settings or Settings())

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        for part in (parts.batcher, parts.shadow, parts.refresher):
            part.start()
        yield
        # Whoever runs the application calls this after the last answer, so nothing waits here any more.
        for part in (parts.refresher, parts.batcher, parts.shadow):
            part.stop()

    # FastAPI's own pages load scripts from the internet, and its routes declare no scope.
    app = FastAPI(title="Colonnade", version="1", lifespan=lifespan, openapi_url=None, docs_url=None, redoc_url=None)
    app.router.route_class = ScopedRoute
    app.state.gate = Gate(keys, parts.metrics, parts.settings)
    errors.install(app)
    search.add_routes(app, parts)
    index.add_routes(app, parts)
    contents.add_routes(app, parts)
    health.add_routes(app, parts)
    pages.add_routes(app)
    if writer is not None:
        documents.add_routes(app, parts, writer)
    return app


def _parts(searcher: Searcher, address: str, settings: Settings) -> Parts:
    metrics = Metrics()

    def swapped(snapshot: Snapshot) -> None:
        metrics.swaps.inc()
        committed = datetime.fromisoformat(snapshot.manifest.commit.created_at)
        metrics.lag.set(max(0.0, time.time() - committed.timestamp()))

    def failed() -> None:
        metrics.faults.labels("refresh").inc()

    metrics.version.set_function(lambda: searcher.snapshot.version)
    metrics.documents.set_function(lambda: searcher.snapshot.manifest.documents)
    metrics.passages.set_function(lambda: searcher.snapshot.manifest.passages)
    metrics.set_aside.set_function(lambda: searcher.fault is not None)
    metrics.index_bytes.set_function(lambda: sum(file.size for file in searcher.snapshot.manifest.files()))
    metrics.gpu_bytes.set_function(searcher.gpu_bytes)
    return Parts(
        searcher=searcher,
        address=address,
        settings=settings,
        metrics=metrics,
        batcher=Batcher(searcher.encode, metrics, settings.queue_limit),
        refresher=Refresher(searcher, settings.refresh_seconds, on_swap=swapped, on_fault=failed),
        shadow=ShadowCheck(searcher, metrics, settings.shadow_share),
    )

"""The HTTP server, put together: its routes are in the files beside this one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from serving.http import contents, errors, health, index, pages, search
from serving.http.parts import Parts
from serving.http.routes import ScopedRoute
from serving.searcher import Refresher, Searcher


def make_app(searcher: Searcher, address: str, refresh_seconds: float = 1.0) -> FastAPI:
    """The application that answers from `searcher` and follows its index."""

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        refresher = Refresher(searcher, refresh_seconds)
        refresher.start()
        yield
        refresher.stop()

    # FastAPI's own pages load scripts from the internet, and its routes declare no scope.
    app = FastAPI(title="Colonnade", version="1", lifespan=lifespan, openapi_url=None, docs_url=None, redoc_url=None)
    app.router.route_class = ScopedRoute
    errors.install(app)
    parts = Parts(searcher, address)
    search.add_routes(app, parts)
    index.add_routes(app, parts)
    contents.add_routes(app, parts)
    health.add_routes(app)
    pages.add_routes(app)
    return app

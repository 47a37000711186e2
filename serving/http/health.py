"""Routes for those who look after the process."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Response

from serving.http.errors import try_again
from serving.http.parts import Parts
from serving.http.routes import needs


def add_routes(app: FastAPI, parts: Parts) -> None:
    """Live, ready, and the numbers."""

    @app.get("/health/live", openapi_extra=needs("none"), status_code=204)
    async def live() -> Response:
        """No content: to answer at all is to live."""
        return Response(status_code=204)

    # A Searcher exists only with an opened snapshot, and a server that drains closes its port first.
    @app.get("/health/ready", openapi_extra=needs("none"), status_code=204)
    async def ready() -> Response:
        """No content, or 503 where a query would not be answered: the worker is dead, or the server is stopping."""
        if not parts.batcher.is_ready:
            raise try_again("not_ready", "No query is answered: the worker has ended.", 5)
        return Response(status_code=204)

    as_text: dict[int | str, dict[str, Any]] = {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}

    @app.get("/metrics", openapi_extra=needs("admin"), response_class=Response, responses=as_text)
    async def metrics() -> Response:
        """For Prometheus."""
        parts.afterwards.do_all()
        return Response(parts.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

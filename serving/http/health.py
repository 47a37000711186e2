"""Routes for those who look after the process."""

from __future__ import annotations

from fastapi import FastAPI, Response

from serving.http.parts import Parts
from serving.http.routes import needs


def add_routes(app: FastAPI, parts: Parts) -> None:
    """Live, ready, and the numbers."""

    # A Searcher exists only with an opened snapshot, and a server that drains closes its port first: to answer at
    # all is to be ready.
    @app.get("/health/live", openapi_extra=needs("none"), status_code=204)
    @app.get("/health/ready", openapi_extra=needs("none"), status_code=204)
    async def health() -> Response:
        """No content: the status says it all."""
        return Response(status_code=204)

    @app.get("/metrics", openapi_extra=needs("admin"))
    async def metrics() -> Response:
        """For Prometheus."""
        return Response(parts.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

"""Routes for those who look after the process."""

from __future__ import annotations

from fastapi import FastAPI, Response

from serving.http.routes import needs


def add_routes(app: FastAPI) -> None:
    """Live and ready."""

    @app.get("/health/live", openapi_extra=needs("none"))
    @app.get("/health/ready", openapi_extra=needs("none"))
    async def health() -> Response:
        # A Searcher exists only with an opened snapshot, so to answer at all is to be ready.
        return Response(status_code=204)

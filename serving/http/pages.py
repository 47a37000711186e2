"""Routes for people with a browser. They hold no data, and load nothing from elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.responses import FileResponse

from serving.http.routes import needs

PAGE = Path(__file__).parent.parent / "static" / "index.html"


def add_routes(app: FastAPI) -> None:
    """The search page, and the description of the API."""

    @app.get("/", include_in_schema=False, openapi_extra=needs("none"))
    async def page() -> FileResponse:
        return FileResponse(PAGE, media_type="text/html")

    @app.get("/openapi.json", include_in_schema=False, openapi_extra=needs("none"))
    async def description() -> dict[str, Any]:
        return app.openapi()

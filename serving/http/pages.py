"""Routes for people with a browser. They hold no data, and load nothing from elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import fastapi_offline
from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import FileResponse, HTMLResponse

from serving.http.routes import needs

PAGE = Path(__file__).parent.parent / "static" / "index.html"
_SWAGGER = Path(fastapi_offline.__file__).parent / "static"


def add_routes(app: FastAPI) -> None:
    """The search page, the description of the API, and the page to try it."""

    @app.get("/", include_in_schema=False, openapi_extra=needs("none"))
    async def page() -> FileResponse:
        return FileResponse(PAGE, media_type="text/html")

    @app.get("/openapi.json", include_in_schema=False, openapi_extra=needs("none"))
    async def description() -> dict[str, Any]:
        return app.openapi()

    @app.get("/docs", include_in_schema=False, openapi_extra=needs("none"))
    async def docs() -> HTMLResponse:
        return get_swagger_ui_html(
            openapi_url="openapi.json",
            title="Colonnade",
            swagger_js_url="docs/swagger-ui-bundle.js",
            swagger_css_url="docs/swagger-ui.css",
            swagger_favicon_url="data:,",
        )

    @app.get("/docs/{name}", include_in_schema=False, openapi_extra=needs("none"))
    async def asset(name: Literal["swagger-ui-bundle.js", "swagger-ui.css"]) -> FileResponse:
        return FileResponse(_SWAGGER / name)

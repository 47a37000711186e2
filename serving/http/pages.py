"""Routes for people with a browser. They hold no data, and load nothing from elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import fastapi_offline
from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import FileResponse, HTMLResponse

from serving.http.routes import needs

STATIC = Path(__file__).parent.parent / "static"
# The page runs its own script and asks its own server: what a document could smuggle in would have no effect.
_ONLY_OURS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
_SWAGGER = Path(fastapi_offline.__file__).parent / "static"


def add_routes(app: FastAPI) -> None:
    """The search page, the description of the API, and the page to try it."""

    @app.get("/", include_in_schema=False, openapi_extra=needs("none"))
    async def page() -> FileResponse:
        return FileResponse(STATIC / "index.html", headers=_ONLY_OURS)

    @app.get("/page.css", include_in_schema=False, openapi_extra=needs("none"))
    async def style() -> FileResponse:
        return FileResponse(STATIC / "page.css", headers=_ONLY_OURS)

    @app.get("/page.js", include_in_schema=False, openapi_extra=needs("none"))
    async def script() -> FileResponse:
        return FileResponse(STATIC / "page.js", headers=_ONLY_OURS)

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

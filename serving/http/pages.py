"""Routes for people with a browser. They hold no data, and load nothing from elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import fastapi_offline
from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import FileResponse, HTMLResponse

from serving.http.routes import needs, scope_of

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


def add_routes(app: FastAPI, *, with_keys: bool) -> None:
    """The search page, the description of the API, and the page to try it, which asks for a key where one is needed."""

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
        described = app.openapi()  # made once, and kept by the application
        if with_keys:
            _describe_keys(described)
        return described

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


def _describe_keys(description: dict[str, Any]) -> None:
    """Say of each operation whether it needs a key, so that the page to try the API asks for one."""
    scheme = {"type": "http", "scheme": "bearer", "description": "An API key: colonnade keys make"}
    description.setdefault("components", {})["securitySchemes"] = {"key": scheme}
    for operations in description["paths"].values():
        for operation in operations.values():
            if scope_of(operation) != "none":
                operation["security"] = [{"key": []}]

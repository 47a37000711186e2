"""Routes that answer questions."""

from __future__ import annotations

from fastapi import FastAPI

from serving.http.parts import Parts
from serving.http.routes import needs
from serving.http.schemas import SearchAnswer, SearchRequest, as_query


def add_routes(app: FastAPI, parts: Parts) -> None:
    """Search."""

    @app.post("/v1/search", openapi_extra=needs("search"))
    def search(request: SearchRequest) -> SearchAnswer:
        """The best passages for a text, or for its token vectors."""
        dim = parts.searcher.snapshot.manifest.encoder.dim
        answer = parts.searcher.search(as_query(request, request.query, request.vectors, dim))
        return SearchAnswer(**{name: getattr(answer, name) for name in SearchAnswer.model_fields})

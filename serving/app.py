"""The HTTP server: routes and the shapes of requests and answers, nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from serving.search import MAX_K, Hit, Recall
from serving.searcher import Refresher, Searcher

_PAGE = Path(__file__).with_name("static") / "index.html"
MAX_QUERY_CHARACTERS = 10_000


class SearchRequest(BaseModel):
    """A question."""

    model_config = ConfigDict(extra="forbid")

    query: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_QUERY_CHARACTERS)]
    k: int = Field(default=10, strict=True, ge=1, le=MAX_K, description="How many passages to return")
    recall: Recall = Field(
        default="balanced", description="'exact' scores every passage; the others stop when few can be missing"
    )


class SearchAnswer(BaseModel):
    """Passages, best first, all from one version of the index."""

    version: int
    hits: list[Hit]
    recall: Recall
    scored: int = Field(description="How many passages were scored exactly")
    encode_ms: float
    search_ms: float


class IndexDescription(BaseModel):
    """What is being served."""

    index: str
    version: int
    published_at: str
    documents: int
    passages: int
    segments: int
    encoder: str
    dim: int
    bits: int
    set_aside: str | None = Field(description="Why a newer version is not served, if there is one")


def make_app(searcher: Searcher, address: str, refresh_seconds: float = 1.0) -> FastAPI:
    """The application that answers from `searcher` and follows its index."""

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        refresher = Refresher(searcher, refresh_seconds)
        refresher.start()
        yield
        refresher.stop()

    # The interactive page of FastAPI loads scripts from the internet; /openapi.json needs none.
    app = FastAPI(title="Colonnade", version="1", lifespan=lifespan, docs_url=None, redoc_url=None)

    @app.exception_handler(RequestValidationError)
    def refuse(_request: Request, error: RequestValidationError) -> Response:
        # Without the value that was sent: it may be text that JSON cannot carry back, or not ours to repeat.
        faults = [{name: one[name] for name in ("loc", "msg", "type")} for one in error.errors()]
        return JSONResponse({"detail": faults}, status_code=422)

    @app.post("/v1/search")
    def search(request: SearchRequest) -> SearchAnswer:
        answer = searcher.search(request.query, request.k, request.recall)
        return SearchAnswer(**{name: getattr(answer, name) for name in SearchAnswer.model_fields})

    @app.get("/v1/index")
    def index() -> IndexDescription:
        manifest = searcher.snapshot.manifest
        return IndexDescription(
            index=address,
            version=manifest.version,
            published_at=manifest.commit.created_at,
            documents=manifest.documents,
            passages=manifest.passages,
            segments=len(manifest.segments),
            encoder=manifest.encoder.name,
            dim=manifest.encoder.dim,
            bits=manifest.codec.bits,
            set_aside=searcher.fault.reason if searcher.fault else None,
        )

    @app.get("/health/live")
    @app.get("/health/ready")
    def health() -> Response:
        # A Searcher exists only with an opened snapshot, so to answer at all is to be ready.
        return Response(status_code=204)

    @app.get("/", include_in_schema=False)
    def page() -> FileResponse:
        return FileResponse(_PAGE, media_type="text/html")

    return app

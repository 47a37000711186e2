"""Routes about what the index holds: columns and documents by id; and texts that it does not hold, put in order."""

from __future__ import annotations

import threading
import time
from functools import partial
from typing import Annotated

from fastapi import FastAPI, Query, Response
from fastapi import Request as HttpRequest
from pydantic import BaseModel, Field, field_validator

from index_format.filters import Filter
from index_format.selection import Kind
from serving.batcher import Expired
from serving.documents import MAX_IDS, Document, fetch_documents
from serving.http.errors import try_again
from serving.http.parts import Parts
from serving.http.routes import as_json, needs, tenant_of
from serving.http.schemas import MAX_VERSION, DocumentId, QueryText, Timed, Versioned
from serving.http.waiting import in_thread, wanted_snapshot
from serving.rerank import MAX_CHARACTERS, MAX_TEXTS, Reranked, rerank
from serving.snapshot import Snapshot


class ColumnDescription(BaseModel):
    """A column that a filter may name. kinds: one, unless segments disagree; none where no document has a value."""

    name: str
    kinds: list[Kind]
    types: list[str]


class Columns(BaseModel):
    """The columns of one version: the document's id, then those of the metadata."""

    version: int
    columns: list[ColumnDescription]


class ColumnsRequest(Versioned, Timed):
    """Of which version: the same fields, read from an address, where every number is text."""

    timeout_ms: int | None = Field(default=None, ge=1, le=600_000)
    version: int | None = Field(default=None, ge=1, le=MAX_VERSION)
    min_version: int | None = Field(default=None, ge=1, le=MAX_VERSION)


class DocumentsRequest(Versioned, Timed):
    """Which documents."""

    ids: Annotated[list[DocumentId], Field(min_length=1, max_length=MAX_IDS, fail_fast=True)]


class DocumentsAnswered(BaseModel):
    """The documents that are there, in the order of the ids, all from one version."""

    version: int
    documents: list[Document]


class RerankRequest(Versioned, Timed):
    """A query, and texts to put in order by it."""

    query: QueryText
    texts: list[str] = Field(
        min_length=1,
        max_length=MAX_TEXTS,
        fail_fast=True,
        description=f"At most {MAX_CHARACTERS:,} characters together",
    )

    @field_validator("texts")
    @classmethod
    def _few_characters(cls, texts: list[str]) -> list[str]:
        total = sum(map(len, texts))
        if total > MAX_CHARACTERS:
            raise ValueError(f"expected at most {MAX_CHARACTERS} characters in all texts together, got {total}")
        return texts


class Reordered(BaseModel):
    """The texts, best first, with the scores that the index would give them; an empty text has none and is left out."""

    version: int
    texts: list[Reranked]


def add_routes(app: FastAPI, parts: Parts) -> None:
    """Columns, documents by id, and rerank."""
    reranking = threading.Lock()

    @app.get("/v1/columns", openapi_extra=needs("search"))
    async def columns(request: HttpRequest, wanted: Annotated[ColumnsRequest, Query()]) -> Columns:
        """What filters may name. To a key of one tenant, the columns in which its documents have a value."""
        deadline = parts.deadline(wanted.timeout_ms)
        snapshot = await wanted_snapshot(parts, wanted, deadline)
        known = await in_thread(partial(_columns, snapshot, tenant_of(request)), deadline)
        request.state.told = {"version": snapshot.version}
        return Columns(version=snapshot.version, columns=known)

    @app.post("/v1/documents/fetch", openapi_extra=needs("search"), response_model=DocumentsAnswered)
    async def documents(body: DocumentsRequest, request: HttpRequest) -> Response:
        """Title, text and metadata of documents."""
        deadline = parts.deadline(body.timeout_ms)
        snapshot = await wanted_snapshot(parts, body, deadline)
        begun = time.monotonic()
        found = await in_thread(partial(_documents, snapshot, body.ids, tenant_of(request)), deadline)
        told = {"version": snapshot.version, "ids": len(body.ids), "documents": len(found)}
        request.state.told = {**told, "read_ms": _since(begun)}
        return as_json({"version": snapshot.version, "documents": found})

    @app.post("/v1/rerank", openapi_extra=needs("search"))
    async def put_in_order(body: RerankRequest, request: HttpRequest) -> Reordered:
        """Score texts that need not be in the index. Nothing of them is kept."""
        deadline = parts.deadline(body.timeout_ms)
        snapshot = await wanted_snapshot(parts, body, deadline)
        begun = time.monotonic()
        texts = await in_thread(partial(_rerank, parts, reranking, snapshot, body, deadline), deadline)
        request.state.told = {"version": snapshot.version, "texts": len(body.texts), "rerank_ms": _since(begun)}
        return Reordered(version=snapshot.version, texts=texts)


def _columns(snapshot: Snapshot, tenant: Filter | None) -> list[ColumnDescription]:
    known = snapshot.columns if tenant is None else snapshot.columns_of(tenant)
    return [ColumnDescription(name=one.name, kinds=list(one.kinds), types=list(one.types)) for one in known.values()]


def _documents(snapshot: Snapshot, ids: list[str], tenant: Filter | None) -> list[Document]:
    own = None if tenant is None else snapshot.within(None, tenant)
    return fetch_documents(snapshot, ids, own)


def _rerank(
    parts: Parts, reranking: threading.Lock, snapshot: Snapshot, body: RerankRequest, deadline: float
) -> list[Reranked]:
    # Seconds of the model's time: two at once would only make searches wait longer.
    if not reranking.acquire(blocking=False):
        raise try_again("reranking", "Other texts are being put in order.", 1)
    try:
        encoder = parts.searcher.encoder
        vectors = encoder.encode_query(body.query)
        return rerank(snapshot, encoder, vectors, body.texts, partial(_refuse_late, deadline))
    finally:
        reranking.release()


def _refuse_late(deadline: float) -> None:
    if time.monotonic() > deadline:
        raise Expired


def _since(begun: float) -> float:
    return round(1000 * (time.monotonic() - begun), 3)

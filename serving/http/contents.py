"""Routes about what the index holds: columns and documents by id; and texts that it does not hold, put in order."""

from __future__ import annotations

import threading

from fastapi import FastAPI
from fastapi import Request as HttpRequest
from pydantic import BaseModel, Field, field_validator

from index_format.selection import Kind
from serving.documents import MAX_IDS, Document, fetch_documents
from serving.http.errors import try_again
from serving.http.parts import Parts
from serving.http.routes import needs, tenant_of
from serving.http.schemas import DocumentId, QueryText, Request
from serving.rerank import MAX_CHARACTERS, MAX_TEXTS, Reranked, rerank


class ColumnDescription(BaseModel):
    """A column that a filter may name. kinds: one, unless segments disagree; none where no document has a value."""

    name: str
    kinds: list[Kind]
    types: list[str]


class Columns(BaseModel):
    """The columns of the version that is served: the document's id, then those of the metadata."""

    version: int
    columns: list[ColumnDescription]


class DocumentsRequest(Request):
    """Which documents."""

    ids: list[DocumentId] = Field(min_length=1, max_length=MAX_IDS)


class DocumentsAnswered(BaseModel):
    """The documents that are there, in the order of the ids, all from one version."""

    version: int
    documents: list[Document]


class RerankRequest(Request):
    """A query, and texts to put in order by it."""

    query: QueryText
    texts: list[str] = Field(
        min_length=1, max_length=MAX_TEXTS, description=f"At most {MAX_CHARACTERS:,} characters together"
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
    def columns(request: HttpRequest) -> Columns:
        """What filters may name. To a key of one tenant, the columns in which its documents have a value."""
        snapshot, tenant = parts.searcher.snapshot, tenant_of(request)
        known = snapshot.columns if tenant is None else snapshot.columns_of(tenant)
        described = [
            ColumnDescription(name=one.name, kinds=list(one.kinds), types=list(one.types)) for one in known.values()
        ]
        return Columns(version=snapshot.version, columns=described)

    @app.post("/v1/documents/fetch", openapi_extra=needs("search"))
    def documents(body: DocumentsRequest, request: HttpRequest) -> DocumentsAnswered:
        """Title, text and metadata of documents."""
        snapshot, tenant = parts.searcher.snapshot, tenant_of(request)
        own = None if tenant is None else snapshot.within(None, tenant)
        return DocumentsAnswered(version=snapshot.version, documents=fetch_documents(snapshot, body.ids, own))

    @app.post("/v1/rerank", openapi_extra=needs("search"))
    def put_in_order(body: RerankRequest) -> Reordered:
        """Score texts that need not be in the index. Nothing of them is kept."""
        snapshot, encoder = parts.searcher.snapshot, parts.searcher.encoder
        # Seconds of the model's time: two at once would only make searches wait longer.
        if not reranking.acquire(blocking=False):
            raise try_again("reranking", "Other texts are being put in order.", 1)
        try:
            texts = rerank(snapshot, encoder, encoder.encode_query(body.query), body.texts)
        finally:
            reranking.release()
        return Reordered(version=snapshot.version, texts=texts)

"""Routes that change the index. They are there only where the server was started to write."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Annotated

from fastapi import FastAPI, Request
from pydantic import Field, JsonValue, field_validator

from serving.http import schemas
from serving.http.errors import try_again
from serving.http.parts import NewDocument, Parts, Writer, Written
from serving.http.routes import needs

MAX_DOCUMENTS = 1_000
MAX_IDS = 10_000
_RESERVED = {"id", "text", "title"}


class Document(schemas.Request):
    """A document; one that is there with the same id gets the new content."""

    id: Annotated[str, Field(min_length=1, max_length=512)]
    text: Annotated[str, Field(min_length=1)]
    title: str | None = None
    metadata: dict[str, JsonValue] = Field(default={}, description="A column for each name")

    @field_validator("metadata")
    @classmethod
    def _no_reserved_name(cls, metadata: dict[str, JsonValue]) -> dict[str, JsonValue]:
        if _RESERVED & set(metadata):
            raise ValueError(f"no column may be called {', '.join(sorted(_RESERVED & set(metadata)))}")
        return metadata


class AddRequest(schemas.Request):
    """Documents to add, as one new version."""

    documents: list[Document] = Field(min_length=1, max_length=MAX_DOCUMENTS)


class DeleteRequest(schemas.Request):
    """Documents to delete, as one new version."""

    ids: list[str] = Field(min_length=1, max_length=MAX_IDS)


def add_routes(app: FastAPI, parts: Parts, writer: Writer) -> None:
    """Add and delete. One change at a time: others are asked to come back."""
    busy = threading.Lock()

    async def write(request: Request, change: Callable[[], Written]) -> Written:
        if not busy.acquire(blocking=False):
            raise try_again("writing", "Another change is being made.", 1)
        try:
            # A client that goes away does not undo it: the change is made whole, or not at all.
            written = await asyncio.shield(asyncio.to_thread(_released, busy, change))
        finally:
            parts.refresher.look_now()
        request.state.told = {"version": written.version, "added": written.added, "changed": written.changed}
        request.state.told |= {"deleted": written.deleted, "rejected": len(written.rejected)}
        return written

    @app.post("/v1/documents", openapi_extra=needs("write"))
    async def add(body: AddRequest, request: Request) -> Written:
        """Add documents. The answer names a version that has them: search with it as `min_version`."""
        documents = [NewDocument(one.id, one.text, one.title, dict(one.metadata)) for one in body.documents]
        return await write(request, lambda: writer.add(documents))

    @app.post("/v1/documents/delete", openapi_extra=needs("write"))
    async def delete(body: DeleteRequest, request: Request) -> Written:
        """Delete documents. The answer names a version without them."""
        return await write(request, lambda: writer.delete(body.ids))


def _released(busy: threading.Lock, change: Callable[[], Written]) -> Written:
    try:
        return change()
    finally:
        busy.release()

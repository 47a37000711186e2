"""Routes that change the index. They are there only where the server was started to write."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Annotated

from fastapi import FastAPI, Request
from pydantic import Field, JsonValue, ValidationInfo, field_validator

from index_format.errors import InputError
from index_format.filters import MAX_VALUES, Filter, Membership
from serving.http import schemas
from serving.http.errors import Refusal, try_again, wrong_field
from serving.http.parts import NewDocument, Parts, Writer, Written
from serving.http.routes import needs, tenant_of
from serving.snapshot import Snapshot

MAX_DOCUMENTS = 1_000
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

    documents: Annotated[list[Document], Field(min_length=1, max_length=MAX_DOCUMENTS, fail_fast=True)]

    @field_validator("documents")
    @classmethod
    def _one_spelling(cls, documents: list[Document]) -> list[Document]:
        spelled: dict[tuple[str, ...], str] = {}
        for number, document in enumerate(documents):
            for path in _names(document.metadata):
                lower = tuple(one.lower() for one in path)
                if not path[-1] or spelled.setdefault(lower, path[-1]) != path[-1]:
                    expected = "a name" if not path[-1] else repr(spelled[lower])
                    raise ValueError(f"documents.{number}.metadata: {'.'.join(path)!r}: expected {expected}")
        return documents


def _names(value: JsonValue, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The names in a value, each after those that it lies in."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield (*path, name)
            yield from _names(inner, (*path, name))
    elif isinstance(value, list):
        for inner in value:
            yield from _names(inner, path)


class DeleteRequest(schemas.Request):
    """Documents to delete, as one new version: those with certain ids, or those that match a filter."""

    filter: Filter | None = Field(default=None, description="Which documents: docs/filters.md")
    ids: Annotated[list[schemas.DocumentId], Field(min_length=1, max_length=MAX_VALUES, fail_fast=True)] | None = Field(
        default=None, validate_default=True
    )

    @field_validator("ids")
    @classmethod
    def _one_way(cls, ids: list[str] | None, others: ValidationInfo) -> list[str] | None:
        # A faulty filter is absent here, and is complained of by itself.
        if "filter" in others.data and (ids is None) == (others.data["filter"] is None):
            raise ValueError("give 'ids' or 'filter', one of them")
        return ids


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
        if tenant_of(request) is not None:
            message = "A key of one tenant adds no documents: one with the id of another tenant's would replace it."
            raise Refusal(403, "forbidden", message)
        documents = [NewDocument(one.id, one.text, one.title, dict(one.metadata)) for one in body.documents]
        return await write(request, lambda: writer.add(documents))

    @app.post("/v1/documents/delete", openapi_extra=needs("write"))
    async def delete(body: DeleteRequest, request: Request) -> Written:
        """Delete documents. The answer names a version without them; a key of one tenant deletes only its own."""
        tenant = tenant_of(request)
        if tenant is None:
            return await write(request, partial(_delete, writer, body))
        return await write(request, partial(_delete_own, writer, body, parts.searcher.snapshot, tenant))


def _delete(writer: Writer, body: DeleteRequest) -> Written:
    if body.ids is not None:
        return writer.delete(body.ids)
    assert body.filter is not None
    return writer.delete_matching(body.filter)


def _delete_own(writer: Writer, body: DeleteRequest, snapshot: Snapshot, tenant: Filter) -> Written:
    """Delete what is a tenant's of what a request names."""
    wanted = tuple(dict.fromkeys(body.ids or ()))
    matching = Membership(op="in", column="id", values=wanted) if wanted else body.filter
    within = snapshot.within(matching, tenant)
    try:
        written = writer.delete_matching(within)
    except InputError:  # of a version that is not served yet; the message would name columns of others
        raise wrong_field("filter", "it does not fit the columns of the index") from None
    return replace(written, unchanged=len(wanted) - written.deleted if wanted else 0)


def _released(busy: threading.Lock, change: Callable[[], Written]) -> Written:
    try:
        return change()
    finally:
        busy.release()

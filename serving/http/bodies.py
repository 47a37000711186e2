"""Bodies of requests: how much of them is read, for how long, and as what."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.types import Message, Receive

from serving.http.errors import Refusal
from serving.http.parts import Settings

Model = TypeVar("Model", bound=BaseModel)
_JSON = "application/json"
_MOST_READ = 1_000  # faults of one body


def bounded(receive: Receive, request: Request, settings: Settings) -> Receive:
    """The same body, unless it is larger or takes longer to come than is allowed."""
    most, seconds = settings.body_bytes, settings.body_seconds
    refuse_too_large(request.headers, settings)
    read, complete, until = 0, False, time.monotonic() + seconds

    async def next_message() -> Message:
        nonlocal read, complete
        if complete:
            return await receive()
        try:
            async with asyncio.timeout(until - time.monotonic()):
                message = await receive()
        except TimeoutError:
            raise Refusal(408, "too_slow", f"The body did not come within {seconds:g} seconds.") from None
        read += len(message.get("body", b""))
        complete = not message.get("more_body", False)
        if read > most:
            raise _too_large(most)
        return message

    return next_message


def refuse_too_large(headers: Mapping[str, str], settings: Settings) -> None:
    """Raise Refusal where a body says itself that it is larger than is allowed."""
    length = headers.get("content-length", "")
    if length.isdecimal() and int(length) > settings.body_bytes:
        raise _too_large(settings.body_bytes)


def _too_large(most: int) -> Refusal:
    return Refusal(413, "too_large", f"The body may have {most} bytes at most. Send less at a time.")


async def _read_all(receive: Receive) -> bytes:
    parts, is_whole = [], False
    while not is_whole:
        message = await receive()
        if message["type"] == "http.disconnect":  # no fault of ours, and nobody is left to read the answer
            raise Refusal(400, "bad_request", "The connection ended before the body did.")
        parts.append(message.get("body", b""))
        is_whole = not message.get("more_body", False)
    return b"".join(parts)


async def read_body(request: Request, receive: Receive, model: type[Model]) -> Model:
    """The body of a request as a model, as it comes. Raises as `as_model` does."""
    return as_model(await _read_all(receive), request.headers, model)


def as_model(data: bytes, headers: Mapping[str, str], model: type[Model]) -> Model:
    """A whole body as a model. Raises RequestValidationError, with the faults as FastAPI tells them.

    What FastAPI does itself, in half of the time: it also asks for forms, dependencies and observers of its own.
    """
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != _JSON and not (kind.startswith("application/") and kind.endswith("+json")):
        # Other kinds are those that a page of another site may send without being asked whether it may.
        fault = {"loc": ("body",), "msg": f"expected the Content-Type {_JSON}", "type": "content_type"}
        raise RequestValidationError([fault])
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        if error.error_count() > _MOST_READ:  # they would take longer to write down than the body did to read
            fault = {"loc": ("body",), "msg": f"{error.error_count():,} faults in one body", "type": "too_many_faults"}
            raise RequestValidationError([fault]) from None
        faults = error.errors(include_url=False, include_context=False, include_input=False)
        raise RequestValidationError([{**one, "loc": ("body", *one["loc"])} for one in faults]) from None

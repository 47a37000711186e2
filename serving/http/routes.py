"""A route says which scope of key it needs; one that does not cannot be made.

Here is the one way in, before anything of a request is read: the key, then the limits of its body. And the one way
out: what is wrong becomes a refusal without a trace, and one line tells what was done, without any text of it.
"""

from __future__ import annotations

import logging
import random
import re
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

import msgspec
from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.types import Receive, Send
from starlette.types import Scope as AsgiScope

from index_format.errors import ColonnadeError, InputError
from index_format.filters import Comparison, Filter
from serving.batcher import Batcher, Expired, Overloaded
from serving.faults import places_of, ran_out_of_memory
from serving.http.bodies import bounded, read_body
from serving.http.errors import Refusal, from_http, from_validation, try_again
from serving.http.parts import Settings
from serving.http.telling import Afterwards, tell_later
from serving.http.waiting import Asking, answers
from serving.keys import Key, KeyRing
from serving.metrics import Metrics

Scope = Literal["search", "write", "admin", "none"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
_SCOPE, _QUEUED = "x-scope", "x-queued"
REQUEST_ID = b"x-request-id"
_PORT = re.compile(r":\d*$")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")

_encoder = msgspec.json.Encoder(enc_hook=str)
_log = logging.getLogger("colonnade.http")


@dataclass(frozen=True, slots=True)
class Gate:
    """What every request passes. ring: None where no keys are asked for. hosts: None where any name will do."""

    ring: KeyRing | None
    hosts: frozenset[str] | None
    metrics: Metrics
    settings: Settings
    batcher: Batcher
    afterwards: Afterwards

    def enter(self, headers: Mapping[str, str], scope: Scope, *, queued: bool) -> Key | None:
        """Let a request in, by its headers alone: the key that it came with, where one is needed. Raises Refusal.

        queued: whether it asks the batcher. Raises Overloaded where that is full.
        """
        self._refuse_other_name(headers)
        refuse_two_lengths(headers)
        key = self._admit(headers, scope)
        if queued:
            self.batcher.refuse_when_full()
        return key

    def _refuse_other_name(self, headers: Mapping[str, str]) -> None:
        """Raise Refusal where a page of another site may have made its name point to this machine (DNS rebinding)."""
        if self.hosts is None:
            return
        name = _PORT.sub("", headers.get("host", "")).rstrip(".").lower()
        if name not in self.hosts:
            message = (
                f"This server has no keys, so it answers only to {', '.join(sorted(self.hosts))}. "
                "Ask it by one of them, or start it with --keys, or with --insecure to answer to any name."
            )
            raise Refusal(421, "misdirected_request", message)

    def _admit(self, headers: Mapping[str, str], scope: Scope) -> Key | None:
        if scope == "none" or self.ring is None:
            return None
        kind, _, secret = headers.get("authorization", "").partition(" ")
        key = self.ring.find(secret.strip()) if kind.lower() == "bearer" and secret else None
        if key is None:
            message = "A key is needed, as 'Authorization: Bearer KEY'; this request had none that is valid."
            raise Refusal(401, "unauthorized", message, WWW_Authenticate="Bearer")
        if scope not in key.scopes:
            raise Refusal(403, "forbidden", f"This needs a key with the scope {scope}; yours has {key.scopes}.")
        if key.tenant is not None and self.settings.tenant_column is None:
            raise Refusal(403, "no_tenants", "This key is a tenant's, and this server holds no tenants apart.")
        return key

    def tenant(self, key: Key | None) -> Filter | None:
        """What the documents of a key's tenant match; None for a key that sees all."""
        if key is None or key.tenant is None:
            return None
        assert self.settings.tenant_column is not None
        return Comparison(op="==", column=self.settings.tenant_column, value=key.tenant)


def refuse_two_lengths(headers: Mapping[str, str]) -> None:
    """Raise Refusal, and end the connection, where a proxy may see another end of the body (RFC 9112 §6.1)."""
    if "content-length" in headers and "transfer-encoding" in headers:
        message = "A body has a Content-Length or is sent in chunks; this request says both."
        raise Refusal(400, "two_lengths", message, Connection="close")


def needs(scope: Scope, *, queued: bool = False) -> dict[str, Any]:
    """What a route passes as `openapi_extra`, so that its scope stands in the description of the API, too.

    queued: whether it asks the batcher, and so is refused before its body is read while the queue is full. Its function
    makes an `Asking` of `body`: nothing more of FastAPI is between them.
    """
    return {_SCOPE: scope, _QUEUED: True} if queued else {_SCOPE: scope}


def scope_of(operation: Mapping[str, Any]) -> Scope:
    """What an operation of the API's description needs."""
    scope: Scope = operation[_SCOPE]
    return scope


def tenant_of(request: Request) -> Filter | None:
    """The filter that whatever this request finds must match."""
    matching: Filter | None = request.state.tenant
    return matching


def json_bytes(body: Any) -> bytes:
    """An answer as JSON, by the one writer of all that has metadata; values that JSON does not know go as text."""
    return _encoder.encode(body)


def as_json(body: Any) -> Response:
    """The same as a response."""
    return Response(json_bytes(body), media_type="application/json")


class ScopedRoute(APIRoute):
    """A route with a declared scope."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **settings: Any) -> None:
        scope = (settings.get("openapi_extra") or {}).get(_SCOPE)
        if scope not in SCOPES:
            raise TypeError(f"route {path}: declare its scope, openapi_extra=needs(...) with one of {SCOPES}.")
        self.needed_scope: Scope = scope
        self.is_queued = bool((settings.get("openapi_extra") or {}).get(_QUEUED))
        super().__init__(path, endpoint, **settings)

    @cached_property
    def model(self) -> type[BaseModel]:
        """What a body is read as, by a route that asks the worker."""
        (body,) = self.dependant.body_params
        model = body.field_info.annotation
        assert isinstance(model, type)
        assert issubclass(model, BaseModel)
        return model

    async def past_layers(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """This route as an application of its own, without what FastAPI and Starlette have around it."""
        response = await self.handle_request(Request(scope, receive, send))
        await response(scope, receive, send)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        answer = self._answer_queued if self.is_queued else _with_body_from(super().get_route_handler())

        async def handle_request(request: Request) -> Response:
            gate: Gate = request.app.state.gate
            start = time.perf_counter()
            state = request.state
            state.told = {}
            try:
                state.key = key = gate.enter(request.headers, self.needed_scope, queued=self.is_queued)
                state.tenant = gate.tenant(key)
                response = await answer(request, bounded(request.receive, request, gate.settings))
            except Exception as error:  # noqa: BLE001  # whatever it is, the client gets no trace of it
                response = self.refusal(error, request.method, gate.metrics).response()
            if self.needed_scope != "none":
                state.request_id = request_id_of(request.headers)
                response.raw_headers.append((REQUEST_ID, state.request_id.encode()))
            tell_later(request, self.path, response.status_code, gate.metrics, time.perf_counter() - start)
            return response

        self.handle_request = handle_request
        return handle_request

    async def _answer_queued(self, request: Request, receive: Receive) -> Response:
        asking: Asking = self.endpoint(await read_body(request, receive, self.model))
        gate: Gate = request.app.state.gate
        asks = await asking.prepared(tenant_of(request))
        done = await answers(gate.batcher, request, asks, asking.deadline)
        request.state.told = asking.told(done)
        return as_json(asking.answer(done))

    def refusal(self, error: Exception, method: str, metrics: Metrics) -> Refusal:
        """The answer in the place of an error."""
        if ran_out_of_memory(error):  # before InputError, as which the encoder tells it for those who build
            metrics.faults.labels(self.path).inc()
            log_fault(error, f"{method} {self.path}")
            return try_again("out_of_memory", "Memory ran out for this request. Come back later, or ask for less.", 5)
        match error:
            case Refusal():
                return error
            case Expired():
                return Refusal(504, "deadline_exceeded", "The deadline passed before there was an answer.")
            case Overloaded():
                return try_again("overloaded", "Too many requests wait. Come back later.", error.seconds)
            case RequestValidationError():
                return from_validation(error)
            case HTTPException():
                return from_http(error)
            case InputError():  # what only the index at hand can judge: a filter's columns, a text's length
                return Refusal(422, "invalid_request", str(error))
        metrics.faults.labels(self.path).inc()
        log_fault(error, f"{method} {self.path}")
        if isinstance(error, ColonnadeError):
            return try_again("storage", "The index could not be read; the log of the server says why.", 5)
        return Refusal(500, "internal", "A fault in the server; its log says where.")


def request_id_of(headers: Mapping[str, str]) -> str:
    """The id that a client gave its request, or one that is made here."""
    given = headers.get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else f"{random.getrandbits(128):032x}"


def _with_body_from(
    answer: Callable[[Request], Coroutine[Any, Any, Response]],
) -> Callable[[Request, Receive], Coroutine[Any, Any, Response]]:
    """The same way to answer, where the body comes from elsewhere."""
    return lambda request, receive: answer(Request(request.scope, receive))


def log_fault(error: BaseException, where: str) -> None:
    """The kind and the place of an unexpected error; never its message, which may quote a query or a document."""
    _log.error("%s failed with %s", where, places_of(error))

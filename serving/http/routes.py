"""A route says which scope of key it needs, and has a limit of bytes; one that does not cannot be made.

What is wrong with a request becomes an answer here and nowhere else, so that no trace and no text of a request
leaves the server.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Coroutine
from typing import Any, Literal, get_args

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from index_format.errors import InputError
from serving.http.errors import Refusal, from_validation

Scope = Literal["search", "write", "admin", "none"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
_SCOPE = "x-scope"

_log = logging.getLogger("colonnade.http")


def needs(scope: Scope) -> dict[str, Any]:
    """What a route passes as `openapi_extra`, so that its scope stands in the description of the API, too."""
    return {_SCOPE: scope}


class ScopedRoute(APIRoute):
    """A route with a declared scope."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **settings: Any) -> None:
        scope = (settings.get("openapi_extra") or {}).get(_SCOPE)
        if scope not in SCOPES:
            raise TypeError(f"route {path}: declare its scope, openapi_extra=needs(...) with one of {SCOPES}.")
        self.needed_scope: Scope = scope
        super().__init__(path, endpoint, **settings)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        answer = super().get_route_handler()

        async def handle(request: Request) -> Response:
            try:
                return await answer(request)
            except Refusal as refusal:
                return refusal.response()
            except RequestValidationError as error:
                return from_validation(error).response()
            except InputError as error:  # what only the index at hand can judge: a filter's columns, a text's length
                return Refusal(422, "invalid_request", str(error)).response()
            except HTTPException:
                raise
            except Exception as error:  # noqa: BLE001  # whatever it is, the client gets no trace of it
                log_fault(error, f"{request.method} {self.path}")
                return Refusal(500, "internal", "A fault in the server; its log says where.").response()

        return handle


def log_fault(error: BaseException, where: str) -> None:
    """The kind and the place of an unexpected error; never its message, which may quote a query or a document."""
    frames = traceback.extract_tb(error.__traceback__)
    places = " < ".join(f"{frame.name}:{frame.lineno} of {frame.filename.rpartition('/')[2]}" for frame in frames[::-1])
    _log.error("%s failed with %s at %s", where, type(error).__name__, places)

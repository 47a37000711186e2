"""Refusals: every answer that is no success has a code for programs and a message for people."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException


class Fault(BaseModel):
    """One thing that is wrong with a request, and the field in which it is."""

    loc: list[str | int]
    msg: str
    type: str


class ErrorAnswer(BaseModel):
    """Why a request was refused."""

    code: str = Field(description="Stable, for programs")
    message: str = Field(description="For people: what, expected, got, and what to do")
    detail: list[Fault] = Field(description="The faults of a malformed request, one by one")


MOST_FAULTS = 20
"""So many faults of a request are told one by one."""

RESPONSES: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorAnswer, "description": "The request cannot be answered as it is"},
    "5XX": {"model": ErrorAnswer, "description": "It may be later: see Retry-After"},
}
"""What every route may answer instead of a success."""


class Refusal(Exception):
    """An answer that is no success."""

    def __init__(
        self, status: int, code: str, message: str, *, detail: Sequence[Mapping[str, Any]] = (), **headers: str
    ) -> None:
        super().__init__(code)
        self.status = status
        self.code = code
        self.message = message
        self.detail = detail
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}

    def response(self) -> Response:
        """The refusal as HTTP has it."""
        body = {"code": self.code, "message": self.message, "detail": list(self.detail)}
        return JSONResponse(body, self.status, self.headers)


def wrong_field(name: str, message: str) -> Refusal:
    """A 422 about one field of the body that only the index at hand can judge."""
    fault = {"loc": ["body", name], "msg": message, "type": "value_error"}
    return Refusal(422, "invalid_request", f"{name}: {message}", detail=[fault])


def try_again(code: str, message: str, seconds: float) -> Refusal:
    """A 503 that says when to come back: whole seconds, as the header has it."""
    return Refusal(503, code, message, Retry_After=str(max(1, math.ceil(seconds))))


def from_validation(error: RequestValidationError) -> Refusal:
    """The faults that FastAPI found.

    Without the values that were sent: they may be text that JSON cannot carry back, or not ours to repeat.
    """
    found = error.errors()
    faults = [{name: one[name] for name in ("loc", "msg", "type")} for one in found[:MOST_FAULTS]]
    places = (".".join(str(part) for part in one["loc"][1:]) or "body" for one in faults)
    told = "; ".join(f"{place}: {one['msg']}" for place, one in zip(places, faults, strict=True))
    more = f"; and {len(found) - MOST_FAULTS} more" if len(found) > MOST_FAULTS else ""
    return Refusal(422, "invalid_request", told + more, detail=faults)


def from_http(error: HTTPException) -> Refusal:
    """What FastAPI and Starlette refuse by themselves."""
    # A refusal of ours that was raised while FastAPI read the body.
    if isinstance(error.__cause__, Refusal):
        return error.__cause__
    refusal = Refusal(error.status_code, HTTPStatus(error.status_code).name.lower(), str(error.detail))
    refusal.headers |= dict(error.headers or {})
    return refusal


def install(app: FastAPI) -> None:
    """Give places that are not there, and other methods, the same shape of refusal."""

    def refuse(_request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return from_http(error).response()

    app.add_exception_handler(HTTPException, refuse)

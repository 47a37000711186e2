"""An HTTP proxy between an S3 client and an S3 server that does to requests what networks and bad servers do."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

LATE_SECONDS = 0.1
SLOW_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Request:
    """What the client sent."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def is_list(self) -> bool:
        return "list-type=2" in self.path

    @property
    def is_conditional(self) -> bool:
        return any(name.lower() == "if-none-match" for name in self.headers)


@dataclass(frozen=True, slots=True)
class Response:
    """What the client gets; with `cut`, the connection closes after so many bytes of the body."""

    status: int
    headers: dict[str, str]
    body: bytes
    cut: int | None = None


Forward = Callable[[Request], Response]
Fault = Callable[[Request, Forward], Response | None]
"""Answers a request in place of the server, which it can ask; None closes the connection without an answer."""


@dataclass(slots=True)
class Proxy:
    """A running proxy. `decide` says for each request which fault it meets, or None."""

    url: str
    decide: Callable[[Request], Fault | None] = lambda _: None


@contextmanager
def running_proxy(upstream: str) -> Iterator[Proxy]:
    """A proxy in front of `upstream` for the length of the block."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    proxy = Proxy(f"http://127.0.0.1:{server.server_port}")
    server.proxy, server.upstream = proxy, urlsplit(upstream).netloc  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _serve(self) -> None:
        body = self._chunks() if "chunked" in self.headers.get("Transfer-Encoding", "") else self._sized()
        request = Request(self.command, self.path, dict(self.headers.items()), body)
        fault = self.server.proxy.decide(request)  # type: ignore[attr-defined]
        self.close_connection = True
        response = fault(request, self._forward) if fault else self._forward(request)
        if response is not None:
            self._answer(response)

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _serve  # noqa: N815  # the names are http.server's

    def _sized(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _chunks(self) -> bytes:
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _forward(self, request: Request) -> Response:
        connection = http.client.HTTPConnection(self.server.upstream, timeout=60)  # type: ignore[attr-defined]
        hop = {"transfer-encoding", "connection", "expect", "content-length"}
        headers = {name: value for name, value in request.headers.items() if name.lower() not in hop}
        try:
            connection.request(request.method, request.path, request.body, headers)
            answer = connection.getresponse()
            return Response(answer.status, dict(answer.getheaders()), answer.read())
        finally:
            connection.close()

    def _answer(self, response: Response) -> None:
        self.send_response(response.status)
        for name, value in response.headers.items():
            if name.lower() not in ("content-length", "connection", "transfer-encoding", "server", "date"):
                self.send_header(name, value)
        length = response.headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(response.body))
        self.send_header("Content-Length", length)
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(response.body[: response.cut])

    def log_message(self, *_arguments: object) -> None:
        pass


def error(status: int, code: str, **headers: str) -> Response:
    """An error as S3 words it."""
    body = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>{code}</Message></Error>'
    return Response(status, {"Content-Type": "application/xml", **headers}, body.encode())


def lost_request(_request: Request, _forward: Forward) -> None:
    return None


def lost_answer(request: Request, forward: Forward) -> None:
    forward(request)


def late_request(request: Request, forward: Forward) -> None:
    """The connection breaks, and the request lands a moment later all the same."""
    threading.Timer(LATE_SECONDS, forward, [request]).start()


def slow(request: Request, forward: Forward) -> Response:
    time.sleep(SLOW_SECONDS)
    return forward(request)


def answers(status: int, code: str, *, applied: bool = False, **headers: str) -> Fault:
    """The given error, before or after the request was applied."""

    def fault(request: Request, forward: Forward) -> Response:
        if applied:
            forward(request)
        return error(status, code, **headers)

    return fault


def body_cut(request: Request, forward: Forward) -> Response:
    found = forward(request)
    return replace(found, cut=len(found.body) // 2)


def body_short(request: Request, forward: Forward) -> Response:
    found = forward(request)
    return replace(found, body=found.body[: len(found.body) // 2])


def body_flipped(request: Request, forward: Forward) -> Response:
    found = forward(request)
    body = bytearray(found.body)
    if body:
        body[len(body) * 2 // 3] ^= 4
    return replace(found, body=bytes(body))


def body_of_error(_request: Request, _forward: Forward) -> Response:
    return replace(error(500, "InternalError"), status=200)


def wrong_etag(request: Request, forward: Forward) -> Response:
    found = forward(request)
    return replace(found, headers={**found.headers, "ETag": '"00000000000000000000000000000000"'})


def without_condition(request: Request, forward: Forward) -> Response:
    """What a server does that does not know conditional writes."""
    headers = {name: value for name, value in request.headers.items() if name.lower() != "if-none-match"}
    return forward(replace(request, headers=headers))

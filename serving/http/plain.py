"""Questions of the plainest form, read and answered past h11: that was a third of the event loop's time for each.

What is plain is a part of what h11 takes, and means the same to both. All else, and with it most of what is malformed,
is left to h11.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from urllib.parse import unquote

from starlette.types import ASGIApp, Message, Scope
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES

from serving.faults import places_of

MOST_HEAD = 16 * 2**10  # bytes
_HEADS = 128  # that are remembered
# What one step matches no other step can, so that nothing is tried twice and a head takes no longer than its length.
_HEAD = re.compile(rb"POST (/[\x21-\x7e]*+) HTTP/1\.1\r\n((?:[-!#$%&'*+.^_`|~0-9A-Za-z]++:[\x20-\x7e]*+\r\n)++)\r\n")
_FIELD = re.compile(rb"([^:]++):([^\r]*+)\r\n")
# What decides where a body ends, whether another request follows, or what is sent before the body is read.
_NOT_PLAIN = {b"transfer-encoding", b"connection", b"upgrade", b"expect"}
_KEEP_ALIVE = (b"connection", b"keep-alive")
_LENGTH = re.compile(rb"[0-9]{1,18}")
_FIRST_LINES = {status: b"HTTP/1.1 %d %s\r\n" % (status, phrase) for status, phrase in STATUS_PHRASES.items()}
_CLOSE = (b"connection", b"close")

_log = logging.getLogger("colonnade.http")


@dataclass(frozen=True)
class Head:
    """The head of a plain request: names of headers in small letters. size, length: bytes of it, and of the body."""

    target: bytes
    headers: list[tuple[bytes, bytes]]
    size: int
    length: int

    @cached_property
    def path(self) -> str:
        """The target without what follows the first question mark."""
        path = self.target.partition(b"?")[0].decode("ascii")
        return unquote(path) if "%" in path else path

    @cached_property
    def fields(self) -> dict[str, str]:
        """The headers as text; of those with the same name the first."""
        return {name.decode("ascii"): value.decode("ascii") for name, value in reversed(self.headers)}


def read_head(data: bytes) -> Head | None:
    """The head that bytes begin with; None unless all of it is there, and plain."""
    end = data.find(b"\r\n\r\n", 0, MOST_HEAD)
    return None if end < 0 else _read_whole(data[: end + 4])


@lru_cache(_HEADS)
def _read_whole(head: bytes) -> Head | None:
    """Clients ask with the same few heads again and again."""
    match = _HEAD.fullmatch(head)
    if match is None:
        return None
    headers = [(name.lower(), value.strip(b" ")) for name, value in _FIELD.findall(match[2])]
    names = [name for name, _ in headers]
    if not _NOT_PLAIN.isdisjoint(names) and any(one[0] in _NOT_PLAIN and one != _KEEP_ALIVE for one in headers):
        return None
    if names.count(b"host") != 1 or names.count(b"content-length") != 1:
        return None
    length = headers[names.index(b"content-length")][1]
    return Head(match[1], headers, len(head), int(length)) if _LENGTH.fullmatch(length) else None


class PlainCycle:
    """A plain request and its answer, as uvicorn has them, but for the answer's head: it leaves with the body.

    The fields without an underscore are what uvicorn's protocol looks at. left: bytes of the body that are to come.
    """

    def __init__(
        self,
        head: Head,
        transport: asyncio.Transport,
        flow: FlowControl,
        on_response: Callable[[], None],
        own_headers: list[tuple[bytes, bytes]],
    ) -> None:
        """own_headers: what every answer has."""
        self.head = head
        self.left = head.length
        self.when_gone: Callable[[], None] | None = None  # called where the client hangs up before its answer
        self.disconnected = False
        self.keep_alive = True
        self.response_complete = False
        self._transport = transport
        self._flow = flow
        self._on_response = on_response
        self._own_headers = own_headers
        self._body = bytearray()
        self._event: asyncio.Event | None = None
        self._head: bytes | None = None
        self._to_send = 0  # bytes of the answer's body

    @property
    def message_event(self) -> asyncio.Event:
        """Set where there may be something new for `receive`; made when first asked for, which most never do."""
        if self._event is None:
            self._event = asyncio.Event()
            self._event.set()
        return self._event

    @property
    def body(self) -> bytes:
        """What has come of the body."""
        return bytes(self._body)

    @property
    def may_answer_at_once(self) -> bool:
        """Whether the body is whole, and nothing before it or behind it waits on the connection."""
        return self.left == 0 and not self._flow.write_paused and not self._flow.read_paused

    async def run(self, app: ASGIApp, scope: Scope) -> None:
        """Answer by `app`. Where it makes no whole answer the connection ends."""
        try:
            await app(scope, self.receive, self.send)
        except Exception as error:  # noqa: BLE001  # whatever it is, the client gets no trace of it
            _log.error("an answer failed with %s", places_of(error))
        finally:
            if not self.response_complete:
                self._transport.close()

    def take(self, data: bytes) -> bytes:
        """Add to the body, unless it is answered already; returns what stands behind the body."""
        own, behind = data[: self.left], data[self.left :]
        self.left -= len(own)
        if own and not self.response_complete:
            self._body += own
            if len(self._body) > HIGH_WATER_LIMIT:
                self._flow.pause_reading()
            self._tell_of_news()
        return behind

    def _tell_of_news(self) -> None:
        if self._event is not None:
            self._event.set()

    async def receive(self) -> Message:
        """The next part of the body, or that nobody waits for an answer any more."""
        if not self.disconnected and not self.response_complete:
            self._flow.resume_reading()
            await self.message_event.wait()
            self.message_event.clear()
        if self.disconnected or self.response_complete:
            return {"type": "http.disconnect"}
        body, self._body = bytes(self._body), bytearray()
        return {"type": "http.request", "body": body, "more_body": self.left > 0}

    async def send(self, message: Message) -> None:
        """Send the next part of the answer."""
        if self._flow.write_paused and not self.disconnected:
            await self._flow.drain()
        if self.disconnected:
            return
        if self._head is None:
            self._head = self._made_head(message["status"], message["headers"])
            return
        self._send(self._head, message.get("body", b""), is_last=not message.get("more_body", False))
        self._head = b""

    def answer(self, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> None:
        """Send a whole answer, unless the client is gone."""
        if self.disconnected:
            return
        try:
            self._send(self._made_head(status, headers), body, is_last=True)
        finally:
            if not self.response_complete:
                self._transport.close()

    def hung_up(self) -> None:
        """The client is gone."""
        if self.when_gone is not None and not self.response_complete:
            self.when_gone()

    def _send(self, head: bytes, body: bytes, *, is_last: bool) -> None:
        self._to_send -= len(body)
        if self.response_complete or self._to_send < 0 or (is_last and self._to_send):
            raise RuntimeError("an answer is not as long as its head says")
        self._transport.write(head + body)
        if is_last:
            self.response_complete = True
            self._tell_of_news()
            if not self.keep_alive:
                self._transport.close()
            self._on_response()

    def _made_head(self, status: int, headers: Sequence[tuple[bytes, bytes]]) -> bytes:
        fields = [b"%s: %s\r\n" % field for field in (*self._own_headers, *headers)]
        head = b"".join((_FIRST_LINES[status], *fields, b"\r\n"))
        if not head.count(b"\r") == head.count(b"\n") == len(fields) + 2 or b"\0" in head:
            raise RuntimeError("a header of an answer has more than one line")
        self._to_send = int(dict(headers).get(b"content-length", 0))
        self.keep_alive = self.keep_alive and _CLOSE not in headers
        return head

"""Connections that bring no request or take no answer: uvicorn waits for them for ever, and each holds memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ClassVar, Protocol, runtime_checkable

import h11
from starlette.types import Scope
from uvicorn.protocols.http.h11_impl import H11Protocol

from serving.http.plain import Head, PlainCycle, read_head


@runtime_checkable
class AtOnce(Protocol):
    """An application that answers some plain requests without ASGI."""

    def answer_at_once(self, cycle: PlainCycle) -> bool:
        """Begin to answer a request whose body is here, for `cycle.answer` later; or leave it untouched: False."""
        ...


class PromptProtocol(H11Protocol):
    """HTTP/1.1 as uvicorn has it, which hangs up on a client that lets the server wait.

    While no answer is being made, the whole head of the next request has `head_seconds` to come, from the first
    byte on or, for a new connection, from its start. What trickles in after an answer, such as the rest of a body that
    was refused, counts as such a wait. The body of a request that is being answered is bounded by its route.

    Of an answer that was made, the client has to take `send_bytes` in every `send_seconds`, or all that is left: also
    of the last one before the connection ends, for which closing would wait.

    A plain request that comes when there is no other is read and answered without h11 (`serving/http/plain.py`), and
    without ASGI where the application can.
    """

    head_seconds: ClassVar[float] = 10.0
    send_seconds: ClassVar[float] = 10.0
    send_bytes: ClassVar[int] = 2**16
    _hang_up: asyncio.TimerHandle | None = None
    _break_off: asyncio.TimerHandle | None = None
    _plain: PlainCycle | None = None  # until its body has come and it is answered
    _answer_at_once: Callable[[PlainCycle], bool] | None = None
    _behind: bytes = b""  # what came after the plain request

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        # To be told of every byte that waits; 0 would be the same to a socket, and stop TLS for ever.
        transport.set_write_buffer_limits(high=1, low=0)
        self._answer_at_once = self.app.answer_at_once if isinstance(self.app, AtOnce) else None
        self._watch()

    def data_received(self, data: bytes) -> None:
        if self._plain is not None:
            self._go_on(self._plain, data)
        elif (head := self._plain_head(data)) is not None:
            self._begin(head, data)
        else:
            super().data_received(data)
        self._unset_keepalive_if_required()  # last, for the worker may be at it already
        self._watch()

    def _plain_head(self, data: bytes) -> Head | None:
        """The head of a plain request, where another may begin."""
        if self.conn.their_state is not h11.IDLE or self.conn.trailing_data[0] or self.transport.is_closing():
            return None
        return read_head(data)

    def _begin(self, head: Head, data: bytes) -> None:
        own_headers = self.server_state.default_headers
        cycle = PlainCycle(head, self.transport, self.flow, self.on_response_complete, own_headers)
        self.cycle = self._plain = cycle  # type: ignore[assignment]  # of it, uvicorn knows what this one has too
        self._go_on(cycle, data[head.size :])
        # Most clients send head and body one after another: a turn of the loop later the body is mostly here, too,
        # and the answer is made in one go.
        if cycle.left:
            self.loop.call_soon(self._start, cycle)
        else:
            self._start(cycle)

    def _start(self, cycle: PlainCycle) -> None:
        if self._answer_at_once is not None and cycle.may_answer_at_once and self._answer_at_once(cycle):
            return
        task = self.loop.create_task(cycle.run(self.app, self._scope(cycle.head)))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)

    def _scope(self, head: Head) -> Scope:
        raw_path, _, query = head.target.partition(b"?")
        return {
            "type": "http",
            "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
            "http_version": "1.1",
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme,
            "method": "POST",
            "root_path": self.root_path,
            "path": self.root_path + head.path,
            "raw_path": self.root_path.encode("ascii") + raw_path,
            "query_string": query,
            "headers": list(head.headers),  # a head may be that of other requests, too
            "state": self.app_state.copy(),
        }

    def _go_on(self, plain: PlainCycle, data: bytes) -> None:
        self._behind += plain.take(data)
        if plain.response_complete and plain.left == 0:
            self._go_behind()
        elif self._behind:
            self.flow.pause_reading()

    def _go_behind(self) -> None:
        """On to what came after the plain request, which is over."""
        self._plain, data, self._behind = None, self._behind, b""
        if data:
            self.data_received(data)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._plain is not None and self._plain.left == 0 and not self.transport.is_closing():
            self._go_behind()

    def send_400_response(self, msg: str) -> None:
        """The answer to what is no HTTP. Where that is the body of a request, no answer to the request may follow."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        else:  # an answer is on its way
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._plain is not None:
            self._plain.hung_up()
        self._stop_watching()
        self._stop_pushing()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._break_off is None:
            self._push(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_pushing()

    def _push(self, left: int) -> None:
        self._break_off = self.loop.call_later(self.send_seconds, self._look_after, left)

    def _look_after(self, before: int) -> None:
        left = self.transport.get_write_buffer_size()
        if before - left < self.send_bytes:
            self.transport.abort()
        else:
            self._push(left)

    def _stop_pushing(self) -> None:
        if self._break_off is not None:
            self._break_off.cancel()
            self._break_off = None

    def _watch(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_watching()
        elif self._hang_up is None:
            self._hang_up = self.loop.call_later(self.head_seconds, self.transport.close)

    def _stop_watching(self) -> None:
        if self._hang_up is not None:
            self._hang_up.cancel()
            self._hang_up = None

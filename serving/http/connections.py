"""Connections that bring no request or take no answer: uvicorn waits for them for ever, and each holds memory."""

from __future__ import annotations

import asyncio
from typing import ClassVar

from uvicorn.protocols.http.h11_impl import H11Protocol


class PromptProtocol(H11Protocol):
    """HTTP/1.1 as uvicorn has it, which hangs up on a client that lets the server wait.

    While no answer is being made, the whole head of the next request has `head_seconds` to come, from the first
    byte on or, for a new connection, from its start. What trickles in after an answer, such as the rest of a body that
    was refused, counts as such a wait. The body of a request that is being answered is bounded by its route.

    Of an answer that was made, the client has to take `send_bytes` in every `send_seconds`, or all that is left: also
    of the last one before the connection ends, for which closing would wait.
    """

    head_seconds: ClassVar[float] = 10.0
    send_seconds: ClassVar[float] = 10.0
    send_bytes: ClassVar[int] = 2**16
    _hang_up: asyncio.TimerHandle | None = None
    _break_off: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        # To be told of every byte that waits; 0 would be the same to a socket, and stop TLS for ever.
        transport.set_write_buffer_limits(high=1, low=0)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
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

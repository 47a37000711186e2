"""Connections that bring no request: uvicorn waits for them for ever, and each holds a socket and memory."""

from __future__ import annotations

import asyncio
from typing import ClassVar

from uvicorn.protocols.http.h11_impl import H11Protocol


class PromptProtocol(H11Protocol):
    """HTTP/1.1 as uvicorn has it, which hangs up on a client that lets the server wait.

    While no answer is being made, the whole head of the next request has `head_seconds` to come, from the first
    byte on or, for a new connection, from its start. What trickles in after an answer, such as the rest of a body that
    was refused, counts as such a wait. The body of a request that is being answered is bounded by its route.
    """

    head_seconds: ClassVar[float] = 10.0
    _hang_up: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop_watching()

    def _watch(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_watching()
        elif self._hang_up is None:
            self._hang_up = self.loop.call_later(self.head_seconds, self.transport.close)

    def _stop_watching(self) -> None:
        if self._hang_up is not None:
            self._hang_up.cancel()
            self._hang_up = None

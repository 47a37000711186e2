"""Clients that let a server wait: heads and bodies that trickle in, and answers that nobody reads."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

Kind = Literal["head", "body"]

BEGUN: dict[Kind, bytes] = {
    "head": b"GET /v1/index HTTP/1.1\r\nHost: localhost\r\nX-Slow: ",
    "body": b"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10000\r\n\r\n{",
}
OF_EACH = 8
MOST_SECONDS = 20.0  # a server allows ten for a head or a body; the rest is for a machine that has other things to do
_DRIP_SECONDS = 0.25


@dataclass(slots=True)
class _Dripping:
    """A connection over which a byte comes now and then."""

    kind: Kind
    connection: socket.socket
    since: float

    def is_over(self) -> bool:
        """Send one byte more, and tell whether the server answered or hung up."""
        try:
            self.connection.send(b" ")
            self.connection.recv(4096)
        except BlockingIOError:
            return False
        except ConnectionError:
            return True
        return True


@dataclass(slots=True)
class SlowClients:
    """Connections that drip, each begun anew when the server ends it. longest: seconds that it bore one."""

    place: tuple[str, int]
    ended: int = 0
    longest: float = 0.0
    _dripping: list[_Dripping] = field(default_factory=list)
    _done: threading.Event = field(default_factory=threading.Event)

    def drip(self) -> None:
        """Until told to stop."""
        kinds: tuple[Kind, ...] = ("head", "body")
        self._dripping = [self._begin(kind) for kind in kinds for _ in range(OF_EACH)]
        while not self._done.wait(_DRIP_SECONDS):
            for number, one in enumerate(self._dripping):
                over = one.is_over()
                self.longest = max(self.longest, time.monotonic() - one.since)
                if over:
                    self.ended += 1
                    one.connection.close()
                    self._dripping[number] = self._begin(one.kind)
        for one in self._dripping:
            one.connection.close()

    def stop(self) -> None:
        self._done.set()

    def _begin(self, kind: Kind) -> _Dripping:
        connection = socket.create_connection(self.place, timeout=60)
        connection.sendall(BEGUN[kind])
        connection.setblocking(False)
        return _Dripping(kind, connection, time.monotonic())


@contextmanager
def slow_clients(address: str) -> Iterator[SlowClients]:
    """Let clients drip for the length of the block, beside one that never reads."""
    slow = SlowClients(_place(address))
    with ThreadPoolExecutor(1) as pool, never_reading(address):
        dripping = pool.submit(slow.drip)
        try:
            yield slow
        finally:
            slow.stop()
        dripping.result()


@contextmanager
def never_reading(address: str) -> Iterator[None]:
    """A client that asks for the token vectors of long texts, megabytes of JSON, and reads none of it."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(60)
    with connection:
        connection.connect(_place(address))
        body = json.dumps({"texts": ["honey bees " * 300] * 4}).encode()
        head = f"POST /v1/encode HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
        connection.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + body)
        yield


def _place(address: str) -> tuple[str, int]:
    parts = urlsplit(address)
    assert parts.hostname is not None
    assert parts.port is not None
    return parts.hostname, parts.port

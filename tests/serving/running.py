"""A real server in a thread of this process, over real HTTP, configured as `colonnade serve` does."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import uvicorn
from fastapi import FastAPI

from colonnade.server import DRAIN_SECONDS, Place, configuration


@contextmanager
def running(app: FastAPI) -> Iterator[str]:
    """The address of a server of `app`, which is drained at the end."""
    server = uvicorn.Server(configuration(app, Place("127.0.0.1", 0)))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        thread.join(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(DRAIN_SECONDS + 30)
        assert not thread.is_alive(), "the server did not end"


def connect(address: str) -> socket.socket:
    """A connection to a server, for what an HTTP client does not send."""
    return socket.create_connection((urlsplit(address).hostname, urlsplit(address).port), timeout=60)

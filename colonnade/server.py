"""Start and stop of the query server on this machine."""

from __future__ import annotations

import logging
import signal
import socket
import sys
from collections.abc import Callable

import uvicorn

from colonnade import terminal
from encoding.encoder import Encoder
from index_format.errors import InputError
from index_format.index import Index
from serving.app import make_app
from serving.device import Device
from serving.searcher import Searcher


def run_server(
    index: Index,
    encoder: Encoder,
    host: str,
    port: int,
    *,
    device: Device = "cpu",
    on_start: Callable[[Searcher], None] | None = None,
) -> None:
    """Serve until stopped by Ctrl-C or SIGTERM. `on_start` runs once the address is bound, before the first answer."""
    for number in (signal.SIGINT, signal.SIGTERM):
        # Uvicorn drains, then raises the signal again for whoever handled it before: to be asked to stop is no fault.
        signal.signal(number, lambda *_: sys.exit(0))
    listener = _bind(host, port)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    searcher = Searcher(index, encoder, device)
    bound_host, bound_port = listener.getsockname()[:2]
    shown = f"[{bound_host}]" if ":" in bound_host else bound_host
    manifest = searcher.snapshot.manifest
    terminal.out.print(
        f"Serving {index.address} version {manifest.version} ({manifest.documents:,} documents, "
        f"{manifest.passages:,} passages) at [bold]http://{shown}:{bound_port}[/bold]",
        highlight=False,
        soft_wrap=True,
    )
    if on_start is not None:
        on_start(searcher)
    terminal.out.print("Stop with Ctrl-C.")
    config = uvicorn.Config(make_app(searcher, index.address), log_level="warning", access_log=False)
    uvicorn.Server(config).run(sockets=[listener])


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen()  # from here on clients wait instead of being refused
    except OSError as error:
        listener.close()
        raise InputError(
            f"--port {port}: cannot listen on {host}:{port} ({error.strerror}). Name another, or 0 for a free one."
        ) from error
    return listener

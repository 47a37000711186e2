"""Start and stop of the query server on this machine."""

from __future__ import annotations

import atexit
import gc
import ipaddress
import logging
import signal
import socket
import ssl
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from colonnade import terminal
from encoding.encoder import Encoder
from index_format.errors import InputError
from index_format.index import Index
from serving.device import Device
from serving.http import logs
from serving.http.app import make_app
from serving.http.connections import PromptProtocol
from serving.http.parts import Settings, Writer
from serving.keys import KeyRing
from serving.searcher import Searcher

DRAIN_SECONDS = 30  # how long answers may still take once the server is told to stop
# How long the worker may hold the interpreter before the event loop gets it: Python's own 5 ms are more than a search
# takes, and are waited for at each step of a request that meets the worker at work.
_SWITCH_SECONDS = 0.0005
_COLLECT_EVERY = 10_000  # objects more than before, of which there are at most some hundreds in a request
_log = logging.getLogger("colonnade.server")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a server listens, and whom it lets in. insecure: others than this machine without any key."""

    host: str
    port: int
    keys: Path | None = None
    insecure: bool = False
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    settings: Settings = field(default_factory=Settings)

    def refuse_unsafe(self) -> None:
        """Raise InputError where anybody on the network could ask, or TLS is half configured."""
        if not self.insecure and self.keys is None and not is_loopback(self.host):
            raise InputError(
                f"--host {self.host} would let anyone on the network ask. Give --keys FILE (colonnade keys makes it), "
                "or if that is meant, add --insecure."
            )
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise InputError("--tls-certificate and --tls-key belong together: give both, or neither.")
        for name, path in (("--tls-certificate", self.tls_certificate), ("--tls-key", self.tls_key)):
            if path is not None and not path.is_file():
                raise InputError(f"{name} {path}: there is no such file.")
        if self.tls_certificate is not None and self.tls_key is not None:
            _refuse_other_key(self.tls_certificate, self.tls_key)

    def hosts(self) -> frozenset[str] | None:
        """The names by which a server without keys answers, which only this machine reaches; None for any name.

        A page of another site may have its own name point to this machine (DNS rebinding); the browser says which.
        """
        if self.keys is not None or self.insecure:
            return None
        own = self.host.lower()
        return frozenset({"localhost", "127.0.0.1", "[::1]", f"[{own}]" if ":" in own else own})


def _refuse_other_key(certificate: Path, key: Path) -> None:
    """Raise InputError where a certificate and a key are none, or not of each other."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
    except (ssl.SSLError, OSError) as error:
        raise InputError(
            f"--tls-certificate {certificate} and --tls-key {key} cannot be used together ({error}). Expected a "
            "certificate and its own private key, both PEM, the key without a password."
        ) from error


def run_server(
    index: Index,
    encoder: Encoder,
    place: Place,
    *,
    device: Device = "cpu",
    writer: Writer | None = None,
    on_start: Callable[[Searcher], None] | None = None,
) -> None:
    """Serve until stopped by Ctrl-C or SIGTERM; what was accepted until then is answered.

    `on_start` runs once the address is bound, before the first answer.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        # Uvicorn drains, then raises the signal again for whoever handled it before: to be asked to stop is no fault.
        signal.signal(number, lambda *_: sys.exit(0))
    place.refuse_unsafe()
    keys = KeyRing(place.keys) if place.keys else None
    listener = _bind(place.host, place.port)
    logs.configure()
    if place.keys is not None and place.tls_certificate is None and not is_loopback(place.host):
        _log.warning("keys and answers cross the network unencrypted: give --tls-certificate, or put a proxy in front")
    sys.setswitchinterval(_SWITCH_SECONDS)
    _leave_out_of_collections()
    searcher = Searcher(index, encoder, device)
    searcher.warm_lengths()
    _greet(listener, place, index, searcher)
    if on_start is not None:
        on_start(searcher)
    terminal.out.print("Stop with Ctrl-C.")
    app = make_app(searcher, index.address, place.settings, keys=keys, writer=writer, hosts=place.hosts())
    uvicorn.Server(configuration(app, place)).run(sockets=[listener])


def _leave_out_of_collections() -> None:
    """Have Python's collector of cycles look only at what is made from now on, and more rarely.

    Libraries and encoder are some hundred thousand objects, and stay to the end. Snapshots, which do not, come later.
    """
    gc.collect()
    gc.freeze()
    atexit.register(gc.unfreeze)  # what is not collected at the end, DuckDB calls leaks, in dozens of lines
    gc.set_threshold(_COLLECT_EVERY)


def configuration(app: FastAPI, place: Place) -> uvicorn.Config:
    """How uvicorn runs an application for others to ask."""
    return uvicorn.Config(
        app,
        host=place.host,
        port=place.port,
        http=PromptProtocol,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # nothing here asks who the client is
        timeout_graceful_shutdown=DRAIN_SECONDS,
        ssl_certfile=place.tls_certificate,
        ssl_keyfile=place.tls_key,
    )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _greet(listener: socket.socket, place: Place, index: Index, searcher: Searcher) -> None:
    bound_host, bound_port = listener.getsockname()[:2]
    shown = f"[{bound_host}]" if ":" in bound_host else bound_host
    manifest = searcher.snapshot.manifest
    terminal.out.print(
        f"Serving {index.address} version {manifest.version} ({manifest.documents:,} documents, "
        f"{manifest.passages:,} passages) at "
        f"[bold]{'https' if place.tls_certificate else 'http'}://{shown}:{bound_port}[/bold]",
        highlight=False,
        soft_wrap=True,
    )


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sends small answers at once (TCP_NODELAY) only on sockets that are said to be TCP: else 40 ms are lost.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
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

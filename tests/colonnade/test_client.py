"""When the client asks again: against a server that answers as it was told to, and counts."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest

from colonnade.client import AsyncClient, Client, Refused

GOOD = b'{"version": 3, "encoder": "e", "dim": 1, "vectors": []}'
BUSY = b'{"code": "overloaded", "message": "Too many.", "detail": [{"loc": ["body"], "msg": "m", "type": "t"}]}'


class Told:
    """What a server answers, one after another, and when it was asked."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, dict[str, str], bytes] | None] = []
        self.asked_at: list[float] = []

    def pauses(self) -> list[float]:
        return [after - before for before, after in zip(self.asked_at, self.asked_at[1:], strict=False)]


@pytest.fixture
def server() -> Iterator[tuple[Told, str]]:
    """What it is to answer, and its address. None is no answer at all."""
    told = Told()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            told.asked_at.append(time.monotonic())
            answer = told.answers.pop(0)
            if answer is None:
                time.sleep(1)
                return
            status, headers, body = answer
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing."""

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield told, f"http://127.0.0.1:{running.server_port}"
    running.shutdown()
    running.server_close()


def _encode(address: str, **options: Any) -> Any:
    with Client(address, **options) as client:
        return client.encode(["a"])


def _encode_async(address: str, **options: Any) -> Any:
    async def ask() -> Any:
        async with AsyncClient(address, **options) as client:
            return await client.encode(["a"])

    return asyncio.run(ask())


@pytest.mark.parametrize("encode", [_encode, _encode_async])
def test_who_is_told_to_come_back_comes_no_earlier(server: tuple[Told, str], encode: Callable[..., Any]) -> None:
    """After the seconds that were told, or at the date; a moment after an answer without either."""
    told, address = server
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=4), usegmt=True)
    told.answers = [(503, {"Retry-After": "1"}, BUSY), (429, {"Retry-After": date}, BUSY), (503, {}, BUSY)]
    told.answers.append((200, {}, GOOD))
    begun = datetime.now(UTC)
    assert encode(address).version == 3
    first, second, third = told.pauses()
    assert first >= 1
    assert second > 0.5
    assert (datetime.now(UTC) - begun).total_seconds() >= 3  # a date of HTTP has whole seconds
    assert third >= 0.4


@pytest.mark.parametrize("encode", [_encode, _encode_async])
def test_who_is_told_to_stay_away_for_long_gives_up(server: tuple[Told, str], encode: Callable[..., Any]) -> None:
    """At once, and with all that was told; to come earlier than asked would help nobody."""
    told, address = server
    told.answers = [(503, {"Retry-After": "3600", "X-Request-Id": "ours-1"}, BUSY)]
    with pytest.raises(Refused, match=r"overloaded: Too many\.") as refused:
        encode(address)
    assert (refused.value.status, refused.value.retry_after, refused.value.request_id) == (503, 3600, "ours-1")
    assert refused.value.detail == [{"loc": ["body"], "msg": "m", "type": "t"}]
    assert len(told.asked_at) == 1


def test_a_question_without_an_answer_is_asked_again_and_a_change_is_not(server: tuple[Told, str]) -> None:
    """A change may be under way; to send it again would only stand in its way."""
    told, address = server
    told.answers = [None, (200, {}, GOOD), None]
    assert _encode(address, timeout=0.3).version == 3
    with Client(address, timeout=0.3) as client, pytest.raises(httpx.ReadTimeout):
        client.add([{"id": "a", "text": "b"}])
    assert len(told.asked_at) == 3


def test_a_change_is_sent_until_it_arrives_and_never_again() -> None:
    """Nobody listens at first; then a server goes away after it had the request, and may have made the change."""
    received = []
    with socket.socket() as listener, ThreadPoolExecutor(1) as pool:
        listener.bind(("127.0.0.1", 0))
        listener.settimeout(2)

        def hang_up() -> None:
            time.sleep(0.3)
            listener.listen()
            with contextlib.suppress(TimeoutError):
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        received.append(connection.recv(65_536))

        done = pool.submit(hang_up)
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with Client(address, attempts=9) as client, pytest.raises(httpx.TransportError):
            client.add([{"id": "a", "text": "b"}])
        done.result()
    assert len(received) == 1


def test_an_answer_that_is_not_the_servers_is_told_by_its_status(server: tuple[Told, str]) -> None:
    """A proxy's page, or its list, has neither code nor message."""
    told, address = server
    for body in (b"<html>", b"[]", b'"a"', b"{}"):
        told.answers = [(502, {}, body)]
        with pytest.raises(Refused, match="unknown: Bad Gateway"):
            _encode(address)

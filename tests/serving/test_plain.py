"""Plain requests, which are read past h11: they mean what h11 takes them for, and nothing malformed is one."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import re
import socket
from collections.abc import Iterator
from functools import partial
from http.client import HTTPResponse

import h11
import pytest
from starlette.types import Receive, Scope, Send

from encoding.encoder import Encoder
from index_format.index import Index
from serving.http.app import make_app
from serving.http.parts import Settings
from serving.http.plain import MOST_HEAD, read_head
from serving.http.routes import ScopedRoute
from serving.http.telling import Afterwards
from serving.searcher import Searcher
from tests.serving.running import connect, running
from tests.serving.vectors import add_texts
from tests.waiting import until

BODY = b'{"query": "honey", "k": 1}'
PLAIN = (
    b"POST /v1/search?a=%%20b HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nX-Request-Id:  a b \r\n"
    b"Accept-Encoding:\r\nConnection: keep-alive\r\nContent-Length: %d\r\n\r\n" % len(BODY)
)
HIDDEN = b"POST /v1/encode HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"
# Heads of which nothing is plain: (what becomes of the plain one, whether h11 takes it).
NOT_PLAIN: list[tuple[bytes, bytes, bool]] = [
    (b"Content-Length: 26\r\n", b"Content-Length: 26\r\nContent-Length: 26\r\n", True),
    (b"Content-Length: 26\r\n", b"Content-Length: 26, 26\r\n", True),
    (b"Content-Length: 26\r\n", b"Content-Length: 26\r\nContent-Length: 2\r\n", False),
    (b"Content-Length: 26\r\n", b"Content-Length: 26\r\ncontent-length: 2\r\n", False),
    (b"Content-Length: 26\r\n", b"Content-Length: +26\r\n", False),
    (b"Content-Length: 26\r\n", b"Content-Length: 0x1a\r\n", False),
    (b"Content-Length: 26\r\n", b"Content-Length: 2 6\r\n", False),
    (b"Content-Length: 26\r\n", b"Content-Length: -1\r\n", False),
    (b"Content-Length: 26\r\n", b"Content-Length:\r\n", False),
    (b"Content-Length: 26\r\n", b"Content-Length: 9999999999999999999999\r\n", False),
    (b"Content-Length: 26\r\n", b"Content-Length : 26\r\n", False),
    (b"Content-Length: 26\r\n", b"Content-Length\x00: 26\r\n", False),
    (b"Content-Length: 26\r\n", b" Content-Length: 26\r\n", True),
    (b"Content-Length: 26\r\n", b"Content-Length: 26\n", True),
    (b"Content-Length: 26\r\n", b"Content-Length: 26\r", False),
    (b"Content-Length: 26\r\n", b"Content-Length: 26\x0b\r\n", False),
    (b"Content-Length: 26\r\n", b"Content-Length: 2\r\n 6\r\n", False),
    (b"Content-Length: 26\r\n", b"Content-Length: 26\r\nTransfer-Encoding: chunked\r\n", True),
    (b"Content-Length: 26\r\n", b"Content-Length: 26\r\nTransfer-Encoding:\r\n", False),
    (b"Content-Length: 26\r\n", b"Transfer-Encoding: chunked\r\n", True),
    (b"Content-Length: 26\r\n", b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", False),
    (b"Content-Length: 26\r\n", b"Transfer-Encoding: xchunked\r\n", False),
    (b"Content-Length: 26\r\n", b"Transfer-Encoding : chunked\r\n", False),
    (b"Content-Length: 26\r\n", b"", True),
    (b"Host: localhost\r\n", b"", False),
    (b"Host: localhost\r\n", b"Host: localhost\r\nHost: localhost\r\n", False),
    (b"Host: localhost\r\n", b"Host: localhost\r\n folded\r\n", True),
    (b"Host: localhost\r\n", b"Host: localhost\r\n\tfolded\r\n", True),
    (b"Host: localhost\r\n", b"Host: local\rhost\r\n", False),
    (b"Host: localhost\r\n", b"Host: local\x00host\r\n", False),
    (b"Host: localhost\r\n", b"Host: l\xc3\xb6cal\r\n", True),
    (b"Host: localhost\r\n", b"Host: localhost\r\n: nameless\r\n", False),
    (b"Host: localhost\r\n", b"Host: localhost\r\nnothing\r\n", False),
    (b"Host: localhost\r\n", b"Host: localhost\r\nna me: x\r\n", False),
    (b"Host: localhost\r\n", b"Host: localhost\r\nn(me: x\r\n", False),
    (b"Host: localhost\r\n", b"Host: localhost\r\nExpect: 100-continue\r\n", True),
    (b"Host: localhost\r\n", b"Host: localhost\r\nUpgrade: websocket\r\n", True),
    (b"Connection: keep-alive\r\n", b"Connection: close\r\n", True),
    (b"Connection: keep-alive\r\n", b"Connection: keep-alive, Upgrade\r\n", True),
    (b"Connection: keep-alive\r\n", b"Connection: keep-alive\r\nConnection: close\r\n", True),
    (b"POST ", b"GET ", True),
    (b"POST ", b"HEAD ", True),
    (b"POST ", b"post ", True),
    (b"POST ", b"POST  ", False),
    (b"POST ", b"POST\t", False),
    (b"POST ", b" POST ", False),
    (b"POST ", b"\r\nPOST ", False),
    (b"POST ", b"POST http://localhost", True),
    (b"POST /", b"POST *", True),
    (b" HTTP/1.1", b" HTTP/1.0", True),
    (b" HTTP/1.1", b" HTTP/1.2", True),
    (b" HTTP/1.1", b" HTTP/2.0", True),
    (b" HTTP/1.1", b" http/1.1", False),
    (b" HTTP/1.1", b" HTTP/1.1 ", False),
    (b" HTTP/1.1", b"", False),
    (b" HTTP/1.1\r\n", b" HTTP/1.1\n", True),
    (b"/v1/search", b"/v1/se arch", False),
    (b"/v1/search", b"/v1/se\x7farch", False),
    (b"/v1/search", b"/v1/se\xe4rch", False),
    (b"\r\n\r\n", b"\n\n", True),
    (b"\r\n\r\n", b"\r\n\n", True),
    (b"\r\n\r\n", b"\r\n\r", False),
]


def _by_h11(data: bytes) -> h11.Request | None:
    """What h11 takes bytes for, if for a request."""
    parser = h11.Connection(h11.SERVER)
    parser.receive_data(data)
    try:
        event = parser.next_event()
    except h11.RemoteProtocolError:
        return None
    return event if isinstance(event, h11.Request) else None


def _means_the_same(data: bytes) -> bool:
    """Whether bytes are plain; then h11 has to take them for the same request."""
    head, request = read_head(data), _by_h11(data)
    if head is None:
        return False
    assert request is not None, data
    assert (request.method, request.target, request.http_version) == (b"POST", head.target, b"1.1"), data
    assert list(request.headers) == head.headers, data
    assert [int(value) for name, value in request.headers if name == b"content-length"] == [head.length], data
    parser = h11.Connection(h11.SERVER)
    parser.receive_data(data)
    parser.next_event()
    assert parser.trailing_data[0] == data[head.size :], data
    return True


def test_a_plain_head_is_read() -> None:
    """Names in small letters, values without the blanks around them, and where head and body end."""
    head = read_head(PLAIN + BODY)
    assert head is not None
    assert (head.target, head.size, head.length) == (b"/v1/search?a=%20b", len(PLAIN), len(BODY))
    assert (b"x-request-id", b"a b") in head.headers
    assert _means_the_same(PLAIN + BODY)


@pytest.mark.parametrize(("part", "instead", "taken"), NOT_PLAIN)
def test_what_is_odd_is_left_to_h11(part: bytes, instead: bytes, taken: bool) -> None:
    """It takes or refuses it, as it did before anything was read past it."""
    assert PLAIN.count(part) == 1
    data = PLAIN.replace(part, instead) + BODY
    assert read_head(data) is None
    assert (_by_h11(data) is not None) == taken


def test_whatever_is_plain_means_to_h11_what_it_means_here() -> None:
    """Of heads with a few bytes changed, some still are plain, and h11 takes each of those for the same."""
    rng = random.Random(1)
    odd = [
        b"\r\n",
        b"\n",
        b"\r",
        b" ",
        b"\t",
        b":",
        b",",
        b"\x00",
        b"\x80",
        b"0",
        b"Content-Length: 1\r\n",
        b"Host: b\r\n",
    ]
    plain = 0
    for _ in range(10_000):
        data = bytearray(PLAIN + BODY + HIDDEN)
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(len(PLAIN))
            data[at : at + rng.randrange(3)] = rng.choice([*odd, rng.randbytes(1)])
        plain += _means_the_same(bytes(data))
    assert plain > 500


def test_a_head_that_is_not_whole_or_too_large_is_left_to_h11() -> None:
    """Which waits for the rest, within its own bounds."""
    assert all(read_head(PLAIN[:size]) is None for size in range(len(PLAIN)))
    large = PLAIN.replace(b"Host:", b"X: %s\r\nHost:" % (b"a" * MOST_HEAD))
    assert read_head(large + BODY) is None


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory, encoder: Encoder) -> Iterator[str]:
    """A server of one document."""
    index = Index.at(tmp_path_factory.mktemp("plain") / "index")
    add_texts(index, encoder, {"bees": "Bees make honey."})
    settings = Settings(body_bytes=1000, body_seconds=5)
    with running(make_app(Searcher(index, encoder), "i", settings)) as at:
        yield at


def answer(connection: socket.socket) -> tuple[int, bytes]:
    with HTTPResponse(connection) as response:
        response.begin()
        return response.status, response.read()


def asked(body: bytes = BODY, path: str = "/v1/search", more: str = "") -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n{more}"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def chunked(body: bytes = BODY) -> bytes:
    head = (
        b"POST /v1/search HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    return head + b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)


def test_plain_and_odd_requests_take_turns_on_one_connection(address: str) -> None:
    """Each is answered by whom it falls to, and leaves nothing behind for the next."""
    get = b"GET /v1/index HTTP/1.1\r\nHost: a\r\n\r\n"
    with connect(address) as client:
        for data in (
            asked(),
            get,
            asked(),
            chunked(),
            asked(),
            asked(more="Expect: 100-continue\r\n"),
            asked(b""),
            asked(),
        ):
            client.sendall(data)
            status, body = answer(client)
            assert status == (422 if data == asked(b"") else 200), data
            assert body


def test_requests_sent_at_once_are_answered_in_turn(address: str) -> None:
    """Plain ones and others, as long as none asks for the end of the connection."""
    get = b"GET /v1/index HTTP/1.1\r\nHost: a\r\n\r\n"
    end = b"GET /health/ready HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    with connect(address) as client:
        client.sendall(asked() + asked(b"") + get + asked() + chunked() + asked() + asked(path="/v1/nothing") + end)
        told = b"".join(iter(lambda: client.recv(65_536), b""))
    statuses = [int(part[:3]) for part in told.split(b"HTTP/1.1 ")[1:]]
    assert statuses == [200, 422, 200, 200, 200, 200, 404, 204]


def test_a_body_may_come_in_pieces(address: str) -> None:
    """Byte by byte, with what follows in the last piece."""
    data = asked()
    with connect(address) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        head = data.index(b"\r\n\r\n") + 4
        client.sendall(data[:head])
        for place in range(head, len(data) - 1):
            client.sendall(data[place : place + 1])
        client.sendall(data[-1:] + data[:head])
        assert answer(client)[0] == 200
        client.sendall(data[head:])
        assert answer(client)[0] == 200


def test_what_is_refused_before_its_body_came_spoils_no_next_request(address: str) -> None:
    """The rest of the body is thrown away, however much it looks like a request."""
    hidden = asked() * 20
    with connect(address) as client:
        data = asked(hidden)
        client.sendall(data[:300])
        status, body = answer(client)
        assert (status, json.loads(body)["code"]) == (413, "too_large")
        client.sendall(data[300:] + asked())
        assert answer(client)[0] == 200


def test_a_head_that_contradicts_itself_ends_the_connection(address: str) -> None:
    """Over the wire too: what stands behind it is not answered."""
    for part, instead, taken in NOT_PLAIN:
        data = PLAIN.replace(part, instead)
        if taken or not data.endswith(b"\r\n\r\n"):
            continue
        with connect(address) as client:
            client.sendall(data + BODY + HIDDEN)
            told = b"".join(iter(lambda: client.recv(65_536), b""))
        assert told.startswith(b"HTTP/1.1 400 "), data
        assert told.count(b"HTTP/1.1 ") == 1, data


def _told(address: str, data: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of an answer, without what differs from one to the next."""
    with connect(address) as client:
        client.sendall(data)
        with HTTPResponse(client) as response:
            response.begin()
            headers = {name.lower(): value for name, value in response.getheaders()}
            body = response.read()
    for name in ("date", "content-length"):
        headers.pop(name)
    return response.status, headers, re.sub(rb'"\w+_ms":[^,}]+', b"", body)


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/search", BODY, 200),
        ("/v1/search", b'{"query": "honey", "version": 1, "fields": ["title"]}', 200),
        ("/v1/search", b'{"query": "honey", "hybrid": {}}', 200),
        ("/v1/search", b'{"query": "honey", "explain": true}', 200),
        ("/v1/batch-search", b'{"queries": [{"query": "honey"}, {"query": "lava", "k": 1}]}', 200),
        ("/v1/encode", b'{"texts": ["honey", "lava"]}', 200),
        ("/v1/search", b"{", 422),
        ("/v1/search", b'{"query": "honey", "k": 0, "more": 1}', 422),
        ("/v1/search", b'{"query": "honey", "filter": {"op": "==", "column": "none", "value": 1}}', 422),
        ("/v1/search", b'{"vectors": [[1.0]]}', 422),
        ("/v1/search", b'{"query": "honey", "version": 9}', 404),
        ("/v1/search", b'{"query": "%s"}' % (b"a" * 1000), 413),
        ("/v1/encode", b'{"texts": []}', 422),
    ],
)
def test_the_short_way_answers_as_the_long_one(
    address: str, caplog: pytest.LogCaptureFixture, path: str, body: bytes, status: int
) -> None:
    """To the header, and with the same line in the log. The long one is that of the same body in chunks."""
    known = "X-Request-Id: this\r\n"
    with caplog.at_level(logging.INFO, "colonnade"):
        short = _told(address, asked(body, path, known))
        in_chunks = asked(b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body), path, known)
        length = re.search(rb"Content-Length: \d+", in_chunks)
        assert length is not None
        long = _told(address, in_chunks.replace(length[0], b"Transfer-Encoding: chunked"))
        until(lambda: len(_lines(caplog)) == 2, "both are logged")
    assert short == long
    assert short[0] == status
    first, second = _lines(caplog)
    assert set(first) == set(second)
    assert all(first[name] == second[name] for name in first if not name.endswith("_ms"))


def _lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, object]]:
    """Those of the requests named "this": another test's may come a moment later."""
    lines = [record.line for record in caplog.records if hasattr(record, "line")]
    return [line for line in lines if line["request_id"] == "this"]


def test_a_question_for_which_all_is_at_hand_goes_past_asgi(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And one that has to wait for something does not."""
    taken: list[str] = []
    past_layers = ScopedRoute.past_layers

    async def seen(route: ScopedRoute, scope: Scope, receive: Receive, send: Send) -> None:
        taken.append(route.path)
        await past_layers(route, scope, receive, send)

    monkeypatch.setattr(ScopedRoute, "past_layers", seen)
    for data, ways in ((asked(), 0), (asked(b"{"), 0), (asked(b'{"query": "a", "version": 9}'), 1), (chunked(), 1)):
        taken.clear()
        _told(address, data)
        assert len(taken) == ways


def test_what_is_put_off_is_done_in_its_order_and_all_of_it() -> None:
    """Also after one that fails; at once, when somebody is about to look."""
    done: list[int] = []

    def fail() -> None:
        raise ValueError

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, told: done.append(-len(told)))
        afterwards = Afterwards()
        for number in range(20):
            afterwards.add(partial(done.append, number))
            if number in (3, 19):
                afterwards.add(fail)
        assert done == []
        while len(done) < 22:
            await asyncio.sleep(0.01)
        afterwards.add(partial(done.append, 20))
        afterwards.do_all()
        assert done[-1] == 20

    asyncio.run(main())
    assert [number for number in done if number >= 0] == list(range(21))


def test_an_answer_leaves_as_one_piece(address: str) -> None:
    """Head and body: for another the event loop needs another call to the system, and the client another wake-up."""
    with connect(address) as client:
        for _ in range(5):
            client.sendall(asked())
            told = client.recv(65_536)
            head, _, body = told.partition(b"\r\n\r\n")
            assert f"content-length: {len(body)}".encode() in head
            assert body

"""Malformed requests over real HTTP, to a server that asks for keys and may write.

Each gets a 4xx, or a 503 or 504 that is due to what it asks for; who has no key for a route gets 401 or 403, whatever
else is wrong. Nothing is left without an answer but what never became a request. No fault is met, memory stays, and
good requests are answered all the while.
"""

from __future__ import annotations

import json
import logging
import os
import random
import re
import socket
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPResponse
from pathlib import Path
from unittest import mock
from urllib.parse import urlsplit

import h11
import httpx

from colonnade.writer import IndexWriter
from encoding.encoder import load_encoder
from index_format.index import Index
from serving.http.app import make_app
from serving.http.connections import PromptProtocol
from serving.http.parts import Settings
from serving.http.routes import Scope, ScopedRoute
from serving.keys import KeyRing, KeyScope, make_key, write_keys
from serving.searcher import Searcher
from tests.serving.running import running
from tests.serving.vectors import add_texts
from tests.torture.disk import in_memory
from tests.torture.odd_requests import Sent, odd_request
from tests.torture.registry import Step

SCOPES: dict[str, list[KeyScope]] = {
    "every": ["search", "write", "admin"],
    "search": ["search"],
    "write": ["write"],
    "admin": ["admin"],
    "expired": ["search", "write", "admin"],
}
# What a server may be too busy for: a timeout of a millisecond, or the last request, which nobody waited for, at work.
BUSY = {"overloaded", "deadline_exceeded", "version_not_served", "version_not_open", "words_not_ready", "reranking"}
BUSY |= {"writing"}
MAY_BE_RESET = 16_000  # bytes: of more the server need not read all before it refuses and hangs up
MOST_GROWTH = 256 * 2**20  # bytes of memory, from the middle of a run to its end
_LOOK = 100


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    status: int
    kind: str
    body: bytes


def run(count: int, seed: int, step: Step) -> str:
    """Send `count` malformed requests."""
    rng, tally, memory = random.Random(seed), Counter[str](), 0
    with tempfile.TemporaryDirectory(dir=in_memory()) as folder, _errors() as errors:
        index, encoder = Index.at(Path(folder) / "index"), load_encoder("embedded")
        add_texts(index, encoder, {"bees": "Bees make honey."})
        ring, secrets = _keys(Path(folder) / "keys.json")
        writer = IndexWriter(index.address, None)
        app = make_app(Searcher(index, encoder), "i", Settings(body_seconds=0.2), keys=ring, writer=writer)
        needed = {(*one.methods, one.path): one.needed_scope for one in app.routes if isinstance(one, ScopedRoute)}
        header = {"Authorization": f"Bearer {secrets['every']}"}
        with _impatient(), running(app) as address, httpx.Client(base_url=address, timeout=60, headers=header) as good:
            for number in range(count):
                sent = odd_request(rng, secrets, "every")
                where = f"seed {seed}, request {number} with key '{sent.key}': {sent.data[:300]!r}"
                tally[_judged(sent, _exchange(address, sent), needed, where)] += 1
                if number % _LOOK == 0 or number == count - 1:
                    _look(good, where)
                    assert not errors, f"{where}: {errors}"
                if number == count // 2:
                    memory = _resident_bytes()
                step()
    grown = _resident_bytes() - memory
    assert grown < MOST_GROWTH, f"seed {seed}: memory grew by {grown / 2**20:.0f} MiB in the second half"
    return (
        f"{count:,} malformed requests: {tally['refused']:,} refused, {tally['not let in']:,} more for their key, "
        f"{tally['busy']:,} told to come back, {tally['no request']:,} never became a request, {tally['answered']:,} "
        f"still good and answered, 0 faults; {max(0, grown) / 2**20:.0f} MiB more in the second half"
    )


def _keys(file: Path) -> tuple[KeyRing, dict[str, str | None]]:
    """A file of keys, a secret of each kind, one that is in no file, and none."""
    made = {name: make_key(name, scopes, days=0 if name == "expired" else None) for name, scopes in SCOPES.items()}
    write_keys(file, [key for key, _ in made.values()])
    secrets: dict[str, str | None] = {name: secret for name, (_, secret) in made.items()}
    return KeyRing(file), {**secrets, "unknown": make_key("unknown", ["search"])[1], "none": None}


def _exchange(address: str, sent: Sent) -> Answer | None:
    """What a request is answered on a connection of its own, which stays open; None where the server closes it."""
    place = urlsplit(address)
    with socket.create_connection((place.hostname, place.port), timeout=60) as connection:
        try:
            connection.sendall(sent.data)
        except ConnectionError:
            assert len(sent.data) > MAY_BE_RESET, sent.data
        with HTTPResponse(connection, method=sent.data.partition(b" ")[0].decode("latin-1")) as response:
            try:
                response.begin()
                return Answer(response.status, response.headers.get_content_type(), response.read())
            except ConnectionError:
                return None


def _judged(sent: Sent, answer: Answer | None, needed: Mapping[tuple[str, str], Scope], where: str) -> str:
    """What became of a request. Raises AssertionError unless that is right."""
    if answer is None:
        assert _is_no_request(sent.data) or len(sent.data) > MAY_BE_RESET, f"{where}: no answer"
        return "no request"
    where = f"{where}: {answer}"
    assert b"Traceback" not in answer.body, where
    if sent.route in needed:
        due = _refusal_of_key(sent.key, needed[sent.route])
        assert answer.status == due if due else answer.status not in (401, 403), f"{where}; expected {due}"
    if answer.status < 400:
        assert not sent.no_good, where
        return "answered"
    code = _code(answer, where)
    if answer.status in (503, 504):
        assert code in BUSY, where
        return "busy"
    assert answer.status < 500, where
    return "not let in" if answer.status in (401, 403) else "refused"


def _refusal_of_key(key: str, scope: Scope) -> int | None:
    """The status that a kind of key must get from a route with that scope; None where it is let in."""
    if scope == "none":
        return None
    if key in ("expired", "unknown", "none"):
        return 401
    return None if scope in SCOPES[key] else 403


def _code(answer: Answer, where: str) -> str:
    """The code of a refusal, which has a shape; but for what the parser refuses, and HEAD."""
    if not answer.body or (answer.status, answer.kind) == (400, "text/plain"):
        return ""
    told = json.loads(answer.body)
    assert set(told) == {"code", "message", "detail"}, where
    code: str = told["code"]
    return code


def _is_no_request(data: bytes) -> bool:
    """Whether no whole head is in it: a server waits for the rest, and then owes no answer."""
    parser = h11.Connection(h11.SERVER)
    parser.receive_data(data)
    try:
        return parser.next_event() is h11.NEED_DATA
    except h11.RemoteProtocolError:
        return False


def _look(good: httpx.Client, where: str) -> None:
    """A good request is answered, and no fault was met before it."""
    response = good.post("/v1/search", json={"query": "honey"})
    assert response.status_code == 200, f"{where}: then a good request got {response.text}"
    faults = re.findall(r"^colonnade_faults_total.*", good.get("/metrics").text, re.MULTILINE)
    assert not faults, f"{where}: {faults}"


@contextmanager
def _impatient() -> Iterator[None]:
    """Heads that never end are hung up on soon: most of the time would go into waiting."""
    with mock.patch.object(PromptProtocol, "head_seconds", 0.5):
        yield


@contextmanager
def _errors() -> Iterator[list[str]]:
    """What is logged as an error by anything in this process; uvicorn's warnings of what is no HTTP are not shown."""
    lines: list[str] = []
    own = logging.getLogger("uvicorn.error")  # Prefect's settings end its records there: they do not reach the root
    own.setLevel(logging.ERROR)
    handler = logging.Handler(logging.ERROR)
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    for logger in (own, logging.getLogger()):
        logger.addHandler(handler)
    try:
        yield lines
    finally:
        for logger in (own, logging.getLogger()):
            logger.removeHandler(handler)
        own.setLevel(logging.NOTSET)


def _resident_bytes() -> int:
    with Path("/proc/self/statm").open() as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

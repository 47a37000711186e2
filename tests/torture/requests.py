"""Malformed requests over real HTTP: each gets a 4xx, no fault is met, and good ones are answered all the while.

Three kinds: good bodies with something in them replaced, bytes of a good body changed, and bytes of a whole request
changed on the wire. What is still a good request after that may be answered.
"""

from __future__ import annotations

import json
import random
import re
import socket
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from encoding.encoder import load_encoder
from index_format.index import Index
from serving.http.app import make_app
from serving.http.parts import Settings
from serving.searcher import Searcher
from tests.serving.running import running
from tests.serving.vectors import add_texts
from tests.torture.registry import Step

BODIES: dict[str, Any] = {
    "/v1/search": {
        "query": "honey",
        "k": 3,
        "offset": 0,
        "recall": "fast",
        "hybrid": {"by": "rank"},
        "fields": ["text"],
        "timeout_ms": 5000,
    },
    "/v1/batch-search": {"queries": [{"query": "honey", "k": 1}, {"vectors": [[0.5] * 384]}], "version": 1},
    "/v1/encode": {"texts": ["honey", "bees"]},
    "/v1/documents/fetch": {"ids": ["bees"]},
    "/v1/rerank": {"query": "honey", "texts": ["Bees."]},
}
ODD: list[Any] = [
    *(
        None,
        True,
        -1,
        0,
        1.5,
        2**31,
        2**63,
        10**40,
        1e308,
        float("nan"),
        float("inf"),
        "",
        " ",
        "\x00",
        "\ud800",
        "'; --",
    ),
    *("🐝" * 3000, "a" * 20_000, [], {}, [[]], [[[[]]]], {"": {}}, [None], ["a"] * 2000, [[1e39] * 384], {"op": "=="}),
    *({"op": "and", "filters": [{"op": "and", "filters": []}] * 50}, {"op": "in", "column": "id", "values": [1, "a"]}),
]
_WIRE = 10  # every tenth is changed on the wire, each on a connection of its own
_LOOK = 100


def run(count: int, seed: int, step: Step) -> str:
    """Send `count` malformed requests."""
    rng, refused, answered = random.Random(seed), 0, 0
    with tempfile.TemporaryDirectory() as folder:
        index, encoder = Index.at(Path(folder) / "index"), load_encoder("embedded")
        add_texts(index, encoder, {"bees": "Bees make honey."})
        app = make_app(Searcher(index, encoder), "i", Settings(body_seconds=0.2))
        with running(app) as address, httpx.Client(base_url=address, timeout=60) as client:
            for number in range(count):
                path = rng.choice(list(BODIES))
                where = f"seed {seed}, request {number} to {path}"
                status = _on_the_wire(address, path, rng) if number % _WIRE == 0 else _sent(client, path, rng, where)
                assert status is None or status < 500, f"{where}: status {status}"
                refused += status is None or status >= 400
                answered += status is not None and status < 400
                if number % _LOOK == 0:
                    assert client.post("/v1/search", json={"query": "honey"}).status_code == 200, where
                    faults = re.findall(r"^colonnade_faults_total.*", client.get("/metrics").text, re.MULTILINE)
                    assert not faults, f"{where}: {faults}"
                step()
    return f"{count:,} malformed requests: {refused:,} refused, {answered:,} still good and answered, 0 faults"


def _sent(client: httpx.Client, path: str, rng: random.Random, where: str) -> int:
    body = json.dumps(_with_something_odd(BODIES[path], rng)).encode()
    if rng.random() < 0.5:
        body = _with_bytes_changed(body, rng)
    kind = rng.choice(["application/json"] * 8 + ["text/plain", "application/xml; charset=x"])
    response = client.post(path, content=body, headers={"Content-Type": kind})
    if response.status_code < 400:
        return response.status_code
    told = response.json()
    assert set(told) == {"code", "message", "detail"}, f"{where}: {told}"
    assert "Traceback" not in response.text, where
    # A timeout of a millisecond may be what came out: that the server keeps it is no fault.
    return 408 if told["code"] in ("overloaded", "deadline_exceeded") else response.status_code


def _with_something_odd(value: Any, rng: random.Random) -> Any:
    """The value with one part of it replaced, left out or added."""
    if isinstance(value, dict) and rng.random() < 0.9:
        name = rng.choice(list(value))
        match rng.randrange(6):
            case 0:
                return {one: part for one, part in value.items() if one != name}
            case 1:
                return {**value, rng.choice(["filter", "explain", "vectors", "version", "x", ""]): rng.choice(ODD)}
            case _:
                return {**value, name: _with_something_odd(value[name], rng)}
    if isinstance(value, list) and value and rng.random() < 0.5:
        at = rng.randrange(len(value))
        return [*value[:at], _with_something_odd(value[at], rng), *value[at + 1 :]]
    return rng.choice(ODD)


def _with_bytes_changed(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.randrange(1, 5)):
        at = rng.randrange(len(changed) + 1)
        changed[at : at + rng.randrange(3)] = rng.randbytes(rng.randrange(3))
    return bytes(changed)


def _on_the_wire(address: str, path: str, rng: random.Random) -> int | None:
    """The status that a damaged request gets, or None where the server closes the connection without one."""
    body = json.dumps(BODIES[path]).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    place = urlsplit(address)
    with socket.create_connection((place.hostname, place.port), timeout=60) as connection:
        connection.sendall(_with_bytes_changed(head.encode() + body, rng))
        connection.shutdown(socket.SHUT_WR)
        try:
            status = re.match(rb"HTTP/1\.1 (\d{3})", connection.recv(4096))
        except ConnectionResetError:
            return None
    return int(status.group(1)) if status else None

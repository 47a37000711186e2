"""Requests that are malformed, each as the bytes that go over the wire.

Bodies with something in them replaced, bytes of a body or of a whole request changed, query strings, bodies that are
compressed, heads that are too large, and heads that contradict themselves, as those do with which requests are
smuggled. What is still a good request after that may be answered.
"""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

BODIES: dict[str, Any] = {
    "/v1/search": {
        "query": "honey",
        "k": 3,
        "offset": 0,
        "recall": "fast",
        "hybrid": {"by": "rank"},
        "filter": {"op": "in", "column": "id", "values": ["bees"]},
        "fields": ["text"],
        "timeout_ms": 5000,
    },
    "/v1/batch-search": {"queries": [{"query": "honey", "k": 1}, {"vectors": [[0.5] * 384]}], "version": 1},
    "/v1/encode": {"texts": ["honey", "bees"]},
    "/v1/documents/fetch": {"ids": ["bees"]},
    "/v1/rerank": {"query": "honey", "texts": ["Bees."]},
    "/v1/documents": {"documents": [{"id": "a", "text": "Ants.", "title": "A", "metadata": {"legs": 6, "kind": "b"}}]},
    "/v1/documents/delete": {"ids": ["a"]},
}
PLACES = ("/v1/versions", "/v1/index", "/v1/columns", "/metrics", "/openapi.json", "/docs/swagger-ui.css", "/", "/v1")
METHODS = ("HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "get", "FOO")
ODD: list[Any] = [
    *(None, True, -1, 0, 1.5, 2**31, 2**63, 10**40, 1e308, float("nan"), float("inf"), "", " ", "\x00", "\ud800"),
    *("'; --", "🐝" * 3000, "a" * 20_000, [], {}, [[]], [[[[]]]], {"": {}}, [None], ["a"] * 2000, [[1e39] * 384]),
    *({"op": "=="}, {"op": "and", "filters": [{"op": "and", "filters": []}] * 50}, {"a": {"b": [1, "c", None]}}),
    {"op": "in", "column": "id", "values": [1, "a"]},
]
NO_JSON = (b"", b"{", b"\xff\xfe{\x00}\x00", b"\xef\xbb\xbf{}", b"[" * 100_000, b'{"query":' * 10_000, b'"\\ud800"')
_HIDDEN = b"GET /v1/index HTTP/1.1\r\nHost: a\r\n\r\n"
# Headers that say how long a body is, and the body that follows.
CONTRADICTIONS: list[tuple[str, bytes]] = [
    ("Content-Length: 2\r\nContent-Length: 37", b"{}" + _HIDDEN),
    ("Content-Length: 2, 37", b"{}" + _HIDDEN),
    ("Content-Length: 5\r\nTransfer-Encoding: chunked", b"0\r\n\r\n" + _HIDDEN),
    ("Transfer-Encoding: chunked\r\nContent-Length: 42", b"0\r\n\r\n" + _HIDDEN),
    ("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", b"0\r\n\r\n" + _HIDDEN),
    ("Transfer-Encoding: gzip, chunked", b"0\r\n\r\n"),
    ("Transfer-Encoding : chunked", b"0\r\n\r\n" + _HIDDEN),
    ("Transfer-Encoding: chunked", b"ffffffffffffffff\r\n{}"),
    ("Transfer-Encoding: chunked", b"ffffffffffffffffffffff\r\n{}"),
    ("Transfer-Encoding: chunked", b"-2\r\n{}\r\n0\r\n\r\n"),
    ("Transfer-Encoding: chunked", b"2\r\n{}" + _HIDDEN),
    *((f"Content-Length: {value}", b"{}") for value in ("-2", "+2", "0x2", "2 2", "9" * 30, str(2**40), "")),
    ("Host: b\r\nContent-Length: 2", b"{}"),
    ("Content-Length: 2\r\n folded: 1", b"{}"),
    ("Content-Length: 2\r\n: nameless", b"{}"),
    ("Content-Length: 2\r\nX: \x00", b"{}"),
]
LARGE = (17_000, 64_000, 1_000_000)  # bytes of a head; 16 KiB are allowed


@dataclass(frozen=True, slots=True)
class Sent:
    """A request as bytes. route: its method and path, or None where nobody can tell. key: the kind that it came with.

    no_good: whatever it is answered, it must be a refusal.
    """

    data: bytes
    route: tuple[str, str] | None
    key: str
    no_good: bool = False


def odd_request(rng: random.Random, secrets: Mapping[str, str | None], best: str) -> Sent:
    """One of all kinds. secrets: a key of each kind; most requests come with the one of kind `best`."""
    key = best if rng.random() < 0.75 else rng.choice(list(secrets))
    header = f"Authorization: Bearer {secrets[key]}\r\n" if secrets[key] is not None else ""
    drawn = rng.random()
    if drawn < 0.7:
        return _odd_body(rng, header, key)
    if drawn < 0.8:
        return _odd_query(rng, header, key)
    if drawn < 0.9:
        path, body = _good(rng)
        return Sent(_with_bytes_changed(_request("POST", path, header, body), rng), None, key)
    return rng.choice([_contradiction, _compressed, _large_head])(rng, header, key)


def _odd_body(rng: random.Random, header: str, key: str) -> Sent:
    path = rng.choice(list(BODIES))
    body = json.dumps(with_something_odd(BODIES[path], rng)).encode()
    if rng.random() < 0.4:
        body = _with_bytes_changed(body, rng)
    elif rng.random() < 0.05:
        body = rng.choice(NO_JSON)
    kind = rng.choice(["application/json"] * 8 + ["text/plain", "application/xml; charset=x"])
    return Sent(_request("POST", path, header, body, kind), ("POST", path), key)


def _odd_query(rng: random.Random, header: str, key: str) -> Sent:
    method, path = "GET" if rng.random() < 0.8 else rng.choice(METHODS), rng.choice(PLACES)
    name, value = rng.choice(["limit", "limit", "version", "key", ""]), str(rng.choice(ODD))[:4000]
    target = f"{path}?{name}={quote(value, errors='surrogatepass')}".encode()
    changed = rng.random() < 0.3
    if changed:
        target = _with_bytes_changed(target, rng)
    data = method.encode() + b" " + target + b" HTTP/1.1\r\nHost: a\r\n" + header.encode() + b"\r\n"
    return Sent(data, None if changed else (method, path), key)


def _contradiction(rng: random.Random, header: str, key: str) -> Sent:
    told, body = rng.choice(CONTRADICTIONS)
    head = f"POST /v1/search HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n{header}{told}\r\n\r\n"
    return Sent(head.encode() + body, None, key, no_good=True)


def _compressed(rng: random.Random, header: str, key: str) -> Sent:
    """A good body, or megabytes of nothing."""
    path, body = _good(rng)
    body = gzip.compress(body if rng.random() < 0.5 else b" " * 4_000_000)
    data = _request("POST", path, f"{header}Content-Encoding: gzip\r\n", body)
    return Sent(data, ("POST", path), key, no_good=True)


def _large_head(rng: random.Random, header: str, key: str) -> Sent:
    """By one header, by many, or by its address; the body is no good either."""
    size = rng.choice(LARGE)
    path, more = rng.choice(
        [("/v1/search", f"X: {'a' * size}\r\n"), ("/v1/search", "a: b\r\n" * (size // 6)), (f"/{'a' * size}", "")]
    )
    return Sent(_request("POST", path, header + more, b"{}"), None, key, no_good=True)


def _request(method: str, path: str, header: str, body: bytes, kind: str = "application/json") -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nHost: a\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{header}\r\n"
    return head.encode() + body


def _good(rng: random.Random) -> tuple[str, bytes]:
    path = rng.choice(list(BODIES))
    return path, json.dumps(BODIES[path]).encode()


def with_something_odd(value: Any, rng: random.Random) -> Any:
    """The value with one part of it replaced, left out or added."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        name = rng.choice(list(value))
        match rng.randrange(6):
            case 0:
                return {one: part for one, part in value.items() if one != name}
            case 1:
                return {**value, rng.choice(["filter", "explain", "vectors", "version", "x", ""]): rng.choice(ODD)}
            case _:
                return {**value, name: with_something_odd(value[name], rng)}
    if isinstance(value, list) and value and rng.random() < 0.5:
        at = rng.randrange(len(value))
        return [*value[:at], with_something_odd(value[at], rng), *value[at + 1 :]]
    return rng.choice(ODD)


def _with_bytes_changed(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.randrange(1, 5)):
        at = rng.randrange(len(changed) + 1)
        changed[at : at + rng.randrange(3)] = rng.randbytes(rng.randrange(3))
    return bytes(changed)

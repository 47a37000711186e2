"""Faults of object stores: nine in ten at the Store interface, one in ten over HTTP through a proxy.

Requests and answers get lost, land late, fail before and after they were applied; bodies are cut, short, flipped or
an error in disguise; listings and reads are stale; access is denied. Each change is done, or failed and changed
nothing, or said that its outcome is unknown; each read is right for some version, or an error of ours.
"""

from __future__ import annotations

import contextlib
import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

from index_format.errors import ColonnadeError, CommitUnknown, ObjectExists, ObjectMissing, StorageError
from index_format.index import Index
from index_format.store import MemoryStore, Store, open_store
from tests import fault_proxy
from tests.fault_proxy import Fault, Request, answers, running_proxy
from tests.s3_server import bucket_for_tests
from tests.strategies import live_texts
from tests.torture.disk import in_memory
from tests.torture.operations import Documents, begin, must_hold, plans
from tests.torture.registry import Step

RATES = {"in process": 0.2, "over HTTP": 0.35}  # of the requests meet a fault; over HTTP most are tried again
OVER_HTTP = 10  # one in so many
PLANS = 40  # on one index, then a fresh one: each check reads all of it


@dataclass(slots=True)
class Dice:
    """Draws which request meets a fault, and which; every kind gets its turn."""

    where: str
    rng: random.Random
    step: Step
    left: int
    counts: Counter[str] = field(default_factory=Counter)
    on: bool = False

    @contextmanager
    def rolling(self) -> Iterator[None]:
        """Faults for the length of the block."""
        self.on = True
        try:
            yield
        finally:
            self.on = False

    def draw(self, kinds: list[str]) -> str | None:
        if not self.on or not self.left or not kinds or self.rng.random() >= RATES[self.where]:
            return None
        kind = min(kinds, key=lambda one: (self.counts[one], one))
        self.counts[kind] += 1
        self.left -= 1
        self.step()
        return kind


@dataclass(slots=True)
class Place:
    """An index that meets faults, the same one without, and how to let what is still under way land."""

    index: Index
    direct: Index
    settle: Callable[[], None]


def run(count: int, seed: int, step: Step) -> str:
    """Inject `count` faults."""
    rng, tally = random.Random(seed), Counter[str]()
    over_http = Dice("over HTTP", rng, step, max(1, count // OVER_HTTP))
    within = Dice("in process", rng, step, count - over_http.left)
    with tempfile.TemporaryDirectory(dir=in_memory()) as cache:
        while within.left:
            _torture(_in_process(within, Path(cache)), within, tally, seed)
        with _http_places(over_http, Path(cache)) as places:
            while over_http.left:
                _torture(next(places), over_http, tally, seed)
    counts = within.counts + over_http.counts
    return (
        f"{counts.total():,} faults of {len(counts)} kinds, {over_http.counts.total():,} of them over HTTP: "
        f"{tally['done']:,} changes done, {tally['failed']:,} failed and changed nothing, {tally['unknown']:,} said "
        f"unknown, {tally['read']:,} right reads, {tally['refused']:,} refused; 0 lost, 0 doubled, 0 wrong"
    )


def _torture(place: Place, dice: Dice, tally: Counter[str], seed: int) -> None:
    """Changes and reads on one index, all of it checked without faults after each."""
    documents, when = begin(place.direct), f"seed {seed}, {dice.where}"
    history: list[Documents] = [{}, documents]
    for _ in range(PLANS):
        (plan,) = plans(documents, dice.rng.randrange(2**32))[:1]
        outcome = "done"
        with dice.rolling():
            try:
                plan.run(place.index)
            except CommitUnknown:
                outcome = "unknown"
            except ColonnadeError:
                outcome = "failed"
        place.settle()
        allowed = {"done": [plan.after], "failed": [documents], "unknown": [documents, plan.after]}[outcome]
        documents = allowed[must_hold(place.direct, allowed, f"{when}, {plan.name} {outcome}")]
        history.append(documents)
        tally[outcome] += 1
        tally[_read(place, dice, history, when)] += 1
        if not dice.left:
            return


def _read(place: Place, dice: Dice, history: list[Documents], when: str) -> str:
    """Whether a reader that meets faults was refused; what it read must have been true of some version."""
    with dice.rolling():
        try:
            held = live_texts(place.index)
        except ColonnadeError:
            return "refused"
    assert held in history, f"{when}: a reader saw {held}, which no version held"
    return "read"


# In process: the faults as they look above `S3Store`.


def _in_process(dice: Dice, cache: Path) -> Place:
    inner = MemoryStore()
    faulty = FaultyStore(inner, dice)
    own = Path(tempfile.mkdtemp(dir=cache))
    return Place(Index(faulty, own / "faulty"), Index(inner, own / "direct"), faulty.settle)


class FaultyStore:
    """A store in front of another, whose every verb may meet a fault."""

    def __init__(self, inner: Store, dice: Dice) -> None:
        self._inner = inner
        self._dice = dice
        self._late: list[tuple[str, bytes]] = []
        self._listed: dict[str, list[str]] = {}

    @property
    def address(self) -> str:
        return self._inner.address

    def create(self, key: str, data: bytes) -> None:
        self._land_some()
        kinds = ["lost request", "lost answer", "late request", "412 after own success", "409", "503", "500 after"]
        kind = self._dice.draw([*kinds, "denied"])
        if kind == "denied":
            raise StorageError("access denied", refused=True)
        if kind == "late request":
            self._late.append((key, data))
        if kind in (None, "lost answer", "500 after", "412 after own success"):
            self._inner.create(key, data)
        if kind == "412 after own success":
            raise ObjectExists(key)
        if kind:
            raise StorageError(kind)

    def get(self, key: str) -> bytes:
        return self._damaged(self._inner.get(key), key)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        return self._damaged(self._inner.get_range(key, start, length), key)

    def _damaged(self, data: bytes, key: str) -> bytes:
        kinds = ["timeout", "stale read", "body short", "body flipped", "body too long", "error for a body"]
        match self._dice.draw(kinds):
            case None:
                return data
            case "stale read":
                raise ObjectMissing(key)
            case "body short":
                return data[: len(data) // 2]
            case "body flipped":
                at = self._dice.rng.randrange(len(data)) if data else 0
                return data[:at] + bytes([data[at] ^ 8]) + data[at + 1 :] if data else data
            case "body too long":
                return data + b"x"
            case "error for a body":
                return fault_proxy.error(500, "InternalError").body
        raise StorageError("timeout")

    def size(self, key: str) -> int:
        return self._inner.size(key)

    def list(self, prefix: str) -> list[str]:
        self._land_some()
        before, now = self._listed.get(prefix, []), self._inner.list(prefix)
        self._listed[prefix] = now
        match self._dice.draw(["stale listing", "listing refused"]):
            case "stale listing":
                return before
            case "listing refused":
                raise StorageError("slow down")
        return now

    def delete(self, key: str) -> None:
        if self._dice.draw(["delete refused"]):
            raise StorageError("slow down")
        self._inner.delete(key)

    def local_path(self, _key: str) -> Path | None:
        return None

    def settle(self) -> None:
        while self._late:
            self._land(self._late.pop())

    def _land_some(self) -> None:
        if self._late and self._dice.rng.random() < 0.3:
            self._land(self._late.pop(0))

    def _land(self, request: tuple[str, bytes]) -> None:
        with contextlib.suppress(ObjectExists):
            self._inner.create(*request)


# Over HTTP: the faults as networks and servers make them.


def _http_faults() -> dict[str, tuple[Callable[[Request], bool], Fault]]:
    def any_request(_request: Request) -> bool:
        return True

    def is_create(request: Request) -> bool:
        return request.is_conditional

    def is_read(request: Request) -> bool:
        return request.method == "GET" and not request.is_list

    def is_list(request: Request) -> bool:
        return request.is_list

    return {
        "request lost": (any_request, fault_proxy.lost_request),
        "answer lost": (any_request, fault_proxy.lost_answer),
        "slow": (any_request, fault_proxy.slow),
        "500 before": (any_request, answers(500, "InternalError")),
        "500 after": (is_create, answers(500, "InternalError", applied=True)),
        "502": (any_request, answers(502, "BadGateway")),
        "503 SlowDown": (any_request, answers(503, "SlowDown", **{"Retry-After": "1"})),
        "403 expired": (any_request, answers(403, "ExpiredToken")),
        "403 clock": (any_request, answers(403, "RequestTimeTooSkewed")),
        "request late": (is_create, fault_proxy.late_request),
        "409 conflict": (is_create, answers(409, "ConditionalRequestConflict")),
        "412 after success": (is_create, answers(412, "PreconditionFailed", applied=True)),
        "body cut": (is_read, fault_proxy.body_cut),
        "body short over HTTP": (is_read, fault_proxy.body_short),
        "body flipped over HTTP": (is_read, fault_proxy.body_flipped),
        "error with code 200": (is_read, fault_proxy.body_of_error),
        "404 for what is there": (is_read, answers(404, "NoSuchKey")),
        "wrong ETag": (is_read, fault_proxy.wrong_etag),
        "garbled listing": (is_list, fault_proxy.body_short),
    }


@contextmanager
def _http_places(dice: Dice, cache: Path) -> Iterator[Iterator[Place]]:
    """Indexes in a bucket that is reached through a fault proxy."""
    import s3fs

    faults = _http_faults()

    def decide(request: Request) -> Fault | None:
        kind = dice.draw([name for name, (applies, _) in faults.items() if applies(request)])
        return faults[kind][1] if kind else None

    def places(bucket: str) -> Iterator[Place]:
        while True:
            own = Path(tempfile.mkdtemp(dir=cache))
            address = f"{bucket}/{own.name}"
            faulty, direct = Index(open_store(address), own / "faulty"), Index(open_store(address), own / "direct")
            yield Place(faulty, direct, lambda: time.sleep(2 * fault_proxy.LATE_SECONDS))

    with (
        bucket_for_tests() as bucket,
        running_proxy(os.environ["AWS_ENDPOINT_URL"]) as proxy,
        mock.patch.dict(os.environ, {"AWS_ENDPOINT_URL": proxy.url}),
    ):
        s3fs.S3FileSystem.clear_instance_cache()
        proxy.decide = decide
        yield places(bucket)

"""The doctor believes a good store and finds what each kind of liar lacks; no index begins on a liar."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from index_format.commit import commit, versions
from index_format.doctor import examine, refuse_unsafe_store
from index_format.errors import ObjectExists, ObjectMissing, StorageError
from index_format.store import LocalStore, MemoryStore, Store, open_store
from tests.fault_proxy import Fault, Proxy, Request, answers, without_condition
from tests.index_format.test_commit import next_version


def broken(store: Store) -> set[str]:
    """The promises that do not hold, by their first three words."""
    found = list(examine(store, clients=4, rounds=6))
    assert len(found) == 8
    assert store.list("") == [], "something was left behind"
    return {finding.promise for finding in found if not finding.held}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("index_format.doctor.LARGE_BYTES", 33 * 2**20)


def test_good_stores_are_believed(tmp_path: Path, fresh_s3_address: str) -> None:
    """Memory, a directory, and a bucket over HTTP; nothing is left behind."""
    for store in (MemoryStore(), LocalStore(tmp_path), open_store(fresh_s3_address)):
        assert broken(store) == set()
        refuse_unsafe_store(store)
        assert store.list("") == []


class Overwriting(MemoryStore):
    """Takes every create."""

    def create(self, key: str, data: bytes) -> None:
        self.delete(key)
        super().create(key, data)


class CheckThenAct(MemoryStore):
    """Looks whether a key is taken, and writes later."""

    def create(self, key: str, data: bytes) -> None:
        if self.list(key) == [key]:
            raise ObjectExists(key)
        time.sleep(0.002)
        self._objects[key] = data


class OverwritingInParts(MemoryStore):
    """Knows the condition for small objects alone."""

    def create(self, key: str, data: bytes) -> None:
        if len(data) > 2**20:
            self.delete(key)
        super().create(key, data)


class StaleListing(MemoryStore):
    """Shows a listing of 50 milliseconds ago."""

    def create(self, key: str, data: bytes) -> None:
        threading.Timer(0.05, lambda: self._listed.add(key)).start()
        super().create(key, data)

    def __init__(self) -> None:
        super().__init__()
        self._listed: set[str] = set()

    def list(self, prefix: str) -> list[str]:
        return sorted(key for key in list(self._objects) if key.startswith(prefix) and key in self._listed)


class RememberingListing(MemoryStore):
    """Goes on listing what was deleted."""

    def __init__(self) -> None:
        super().__init__()
        self._ever: set[str] = set()

    def create(self, key: str, data: bytes) -> None:
        super().create(key, data)
        self._ever.add(key)

    def list(self, prefix: str) -> list[str]:
        return sorted(key for key in self._ever if prefix and key.startswith(prefix))


class UnsortedListing(MemoryStore):
    def list(self, prefix: str) -> list[str]:
        return sorted(super().list(prefix), reverse=True)


class WholeForRange(MemoryStore):
    def get_range(self, key: str, start: int, length: int) -> bytes:  # noqa: ARG002
        return self.get(key)


class EmptyForMissing(MemoryStore):
    def get(self, key: str) -> bytes:
        try:
            return super().get(key)
        except ObjectMissing:
            return b""


class ForgetfulReads(MemoryStore):
    """Knows an object only when it is asked for the second time."""

    def __init__(self) -> None:
        super().__init__()
        self._asked: set[str] = set()

    def get(self, key: str) -> bytes:
        if key not in self._asked:
            self._asked.add(key)
            raise ObjectMissing(key)
        return super().get(key)


@pytest.mark.parametrize(
    ("liar", "lacks"),
    [
        (Overwriting, "a taken key is never overwritten"),
        (CheckThenAct, "exactly one of 4 writers gets a key"),
        (OverwritingInParts, "a large object is not overwritten either"),
        (StaleListing, "a listing shows every create and delete"),
        (RememberingListing, "a listing shows every create and delete"),
        (UnsortedListing, "a listing has all keys in order"),
        (WholeForRange, "a range gives the bytes that are there"),
        (EmptyForMissing, "a missing object is missing"),
        (ForgetfulReads, "an object is read as soon as it is created"),
    ],
)
def test_each_kind_of_liar_is_found(liar: type[MemoryStore], lacks: str) -> None:
    """By the promise that it breaks."""
    findings = list(examine(liar(), clients=4, rounds=6))
    assert lacks in {finding.promise for finding in findings if not finding.held}


@pytest.mark.parametrize("liar", [Overwriting, StaleListing, ForgetfulReads])
def test_no_index_begins_on_a_liar(liar: type[MemoryStore]) -> None:
    """The first version is refused, and the advice names the doctor."""
    store = liar()
    with pytest.raises(StorageError) as caught:
        commit(store, next_version)
    assert versions(store) == []
    assert liar is ForgetfulReads or "colonnade doctor" in str(caught.value)


@pytest.mark.parametrize("fault", ["no condition", "304"])
def test_a_server_without_conditional_writes_is_found_over_http(s3_proxy: tuple[Proxy, str], fault: str) -> None:
    """One that ignores If-None-Match, and one that answers as for a read."""
    proxy, address = s3_proxy
    store = open_store(address)
    store.create("taken", b"x")
    wrong = without_condition if fault == "no condition" else answers(304, "NotModified", applied=True)
    proxy.decide = lambda request: wrong if request.is_conditional else None
    first = next(examine(store, clients=2, rounds=2))
    assert (first.promise, first.held) == ("a taken key is never overwritten", False)
    with pytest.raises(StorageError):
        commit(store, next_version)
    assert versions(store) == []


def test_a_bucket_whose_answers_are_lost_now_and_then_is_believed(s3_proxy: tuple[Proxy, str]) -> None:
    """A write that came through without an answer is tried again, and finds its key taken by itself."""
    proxy, address = s3_proxy
    store = open_store(address)
    probes = [b"first", b"client", b"object", b"x", b"<CompleteMultipartUpload"]

    def decide(request: Request) -> Fault | None:
        probe = next((one for one in probes if request.is_conditional and request.body.startswith(one)), None)
        if probe is None:
            return None
        probes.remove(probe)
        return answers(500, "InternalError", applied=True)

    proxy.decide = decide
    assert broken(store) == set()
    assert probes == []
    probes.append(b"first")
    assert commit(store, next_version) is not None
    assert probes == []


class Inventing(MemoryStore):
    """Says that a key is taken, whoever asks, and stores what nobody wrote."""

    def create(self, key: str, data: bytes) -> None:
        self._objects[key] = data if len(data) < 6 else b"other " + data
        raise ObjectExists(key)


def test_a_race_without_a_winner_must_have_left_an_object_of_one_of_the_writers() -> None:
    """Else something was stored that nobody asked for."""
    findings = {finding.promise: finding for finding in examine(Inventing(), clients=2, rounds=2)}
    race = findings["exactly one of 2 writers gets a key"]
    assert not race.held
    assert "got b'other client " in race.seen


@pytest.mark.parametrize("code", ["AccessDenied", "ExpiredToken", "RequestTimeTooSkewed", "InvalidAccessKeyId"])
def test_a_denied_bucket_is_no_empty_one(s3_proxy: tuple[Proxy, str], code: str) -> None:
    """Every verb says that access was denied, and with which code."""
    proxy, address = s3_proxy
    store = open_store(address)
    proxy.decide = lambda _: answers(403, code)
    for verb in (store.get, store.list, lambda key: store.create(key, b"x")):
        with pytest.raises(StorageError, match=f"access denied .{code}.") as caught:
            verb("a/one")
        assert caught.value.refused
        assert not isinstance(caught.value, ObjectMissing)

"""Runs that are better not at work on one index at once take turns, as far as Prefect's server is there to ask.

A turn is good manners and no lock: the commit protocol keeps two runs from harming each other, and one of them has
worked in vain. It is a variable of Prefect that whoever is at work writes anew every few seconds. So whatever dies,
a run, its worker or the server, a turn without a sign of life for a minute is the next one's. One of Prefect's own
limits does not promise that: a server that is killed forgets the leases, and counts their places as taken for ever.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import copy_context

import httpx
from prefect import get_run_logger
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import VariableCreate, VariableUpdate
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound

BEAT_SECONDS = 10.0
PATIENCE_SECONDS = 60.0  # without a sign of life, until a turn counts as left behind
_LOOK_SECONDS = 0.5

_LOST = (httpx.HTTPError, ObjectNotFound)  # a server that is gone or busy, or that lost its database


@contextmanager
def turn(work: str, index: str) -> Iterator[bool]:
    """Whether no other run is at this work on this index; for the block then, no other run is told so.

    index: its address, in whatever spelling.
    """
    own = _Turn(f"colonnade_{work}_{hashlib.sha256(_one_spelling(index).encode()).hexdigest()[:16]}")
    try:
        alone = own.take()
    except _LOST as error:
        get_run_logger().warning("%s of %s goes on, perhaps beside another run: %s", work, index, error)
        yield True
        return
    if not alone:
        yield False
        return
    with own.shown():
        yield True


def _one_spelling(address: str) -> str:
    """The same for all addresses of one place: a directory may be named by symbolic links and by way of others."""
    return address.rstrip("/") if "://" in address else os.path.realpath(address)


class _Turn:
    """One run's wish to be alone, as a variable of this name."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._run = uuid.uuid4().hex
        self._over = threading.Event()

    def take(self) -> bool:
        """Take the turn, at once or when whoever had it has shown no sign of life for a while. False where one came."""
        seen: str | None = None
        since = time.monotonic()
        with get_client(sync_client=True) as client:
            while True:
                try:
                    client.create_variable(VariableCreate(name=self._name, value=self._sign(0)))
                    return True
                except ObjectAlreadyExists:
                    there = client.read_variable_by_name(self._name)
                sign = None if there is None else str(there.value)
                if sign is not None and self._run in sign:
                    return True  # the answer to our first try was lost
                if sign is not None and seen not in (None, sign):
                    return False
                seen = sign or seen
                if time.monotonic() - since > PATIENCE_SECONDS:
                    with suppress(ObjectNotFound):
                        client.delete_variable_by_name(self._name)
                    continue
                time.sleep(_LOOK_SECONDS)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show signs of life in the block, and give the turn back."""
        showing = threading.Thread(target=copy_context().run, args=(self._show,), daemon=True)
        showing.start()
        try:
            yield
        finally:
            self._over.set()
            showing.join(_LOOK_SECONDS)  # so that no last sign comes after the turn was given back
            # A server that is gone must not fail a run that has published. What is left there is the next one's soon.
            with suppress(*_LOST):
                self._give_back()

    def _show(self) -> None:
        beats = 0
        while not self._over.wait(BEAT_SECONDS):
            beats += 1
            with suppress(*_LOST), get_client(sync_client=True) as client:
                client.update_variable(VariableUpdate(name=self._name, value=self._sign(beats)))

    def _give_back(self) -> None:
        with get_client(sync_client=True) as client:
            there = client.read_variable_by_name(self._name)
            if there is not None and self._run in str(there.value):
                client.delete_variable_by_name(self._name)

    def _sign(self, beats: int) -> str:
        return f"{self._run} {beats}"

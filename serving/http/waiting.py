"""Waiting without holding anything up: for a version, for the batcher, and for clients that went away."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from fastapi import Request

from index_format.errors import ColonnadeError, EncoderMismatch, ObjectMissing, StorageError
from index_format.filters import Filter
from serving.batcher import Ask, Batcher, Done, Expired, Job
from serving.http.errors import Refusal, try_again
from serving.http.parts import Parts
from serving.http.schemas import Versioned
from serving.snapshot import Snapshot

VERSION_SECONDS = 5.0  # as long as a commit takes to be searchable, at the default settings
_LOOK_SECONDS = 0.02

Result = TypeVar("Result")


async def wanted_snapshot(parts: Parts, wanted: Versioned, deadline: float) -> Snapshot:
    """The snapshot that a request asks for. Raises Refusal when it is not to be had."""
    snapshot = snapshot_at_hand(parts, wanted)
    if snapshot is not None:
        return snapshot
    if wanted.version is not None:
        return await _exact(parts, wanted.version, deadline)
    least = wanted.min_version or 0
    parts.refresher.look_now()
    with parts.waiters.one_more():
        await _at_least(parts, least, deadline)
    return parts.searcher.snapshot


def snapshot_at_hand(parts: Parts, wanted: Versioned) -> Snapshot | None:
    """The snapshot that a request asks for; None where it is not open."""
    if wanted.version is not None:
        return parts.searcher.held(wanted.version)
    current = parts.searcher.snapshot
    return current if current.version >= (wanted.min_version or 0) else None


async def _at_least(parts: Parts, least: int, deadline: float) -> None:
    until = min(deadline, time.monotonic() + VERSION_SECONDS)
    while parts.searcher.snapshot.version < least:
        if time.monotonic() > until:
            message = f"Version {parts.searcher.snapshot.version} is served, and not yet {least} or later."
            raise try_again("version_not_served", message, 1)
        await asyncio.sleep(_LOOK_SECONDS)


async def wait_for_words(parts: Parts, snapshot: Snapshot, deadline: float) -> None:
    """Until the words of a snapshot are at hand, off the worker. Raises Refusal when that takes too long.

    Once they are, those of later versions are made before these are served.
    """
    if snapshot.has_words:
        return
    try:
        await _in_turn(parts, lambda: snapshot.words, deadline)
    except TimeoutError:
        raise try_again("words_not_ready", "The words of this version are being counted, for BM25.", 5) from None


async def _exact(parts: Parts, version: int, deadline: float) -> Snapshot:
    try:
        return await _in_turn(parts, partial(parts.searcher.at_version, version), deadline)
    except TimeoutError:
        raise try_again("version_not_open", f"Version {version} is being opened, which takes a while.", 5) from None
    except EncoderMismatch as error:
        raise Refusal(409, "other_encoder", str(error)) from None
    except ColonnadeError as error:
        if isinstance(error, StorageError) and not isinstance(error, ObjectMissing):
            raise
        message = f"Version {version} is not retained, or its files are gone; GET /v1/versions lists what there is."
        raise Refusal(404, "version_not_retained", message) from None


async def _in_turn(parts: Parts, work: Callable[[], Result], deadline: float) -> Result:
    """What `work` returns, once all that was asked for before it is read. Raises TimeoutError, and what it raises."""
    with parts.waiters.one_more():
        async with asyncio.timeout(deadline - time.monotonic()):
            return await asyncio.get_running_loop().run_in_executor(parts.opening, work)


async def in_thread(work: Callable[[], Result], deadline: float) -> Result:
    """What `work` returns, off the event loop. Raises Refusal at the deadline, and what it raises."""
    try:
        async with asyncio.timeout(deadline - time.monotonic()):
            return await asyncio.to_thread(work)
    except TimeoutError:
        raise Expired from None


def client_gone() -> Refusal:
    """What is counted and logged where nobody is left to read the answer."""
    return Refusal(499, "client_gone", "Nobody waits for this answer.")


class Asking(ABC):
    """What a request asks of the worker, and what its answers become."""

    def __init__(self, deadline: float) -> None:
        """deadline: of `time.monotonic`."""
        self.deadline = deadline

    @abstractmethod
    def at_hand(self, tenant: Filter | None) -> list[Ask] | None:
        """The asks, for the documents of a tenant; None where they need what is not at hand."""

    @abstractmethod
    async def prepared(self, tenant: Filter | None) -> list[Ask]:
        """The asks, once what they need is at hand. Raises Refusal when it is not to be had."""

    @abstractmethod
    def answer(self, done: Sequence[Done]) -> object:
        """What the client gets, for JSON to be made of it."""

    @abstractmethod
    def told(self, done: Sequence[Done]) -> dict[str, object]:
        """What the log says of the answer, without any text."""


async def answers(batcher: Batcher, request: Request, asks: Sequence[Ask], deadline: float) -> list[Done]:
    """What the batcher makes of the asks.

    Raises Overloaded where it is busy, Expired when it is too late, and Refusal when nobody waits any more.
    """
    loop = asyncio.get_running_loop()
    settled: asyncio.Future[None] = loop.create_future()
    jobs = batcher.submit(asks, deadline, lambda jobs: call_in(loop, _settle, settled, batcher, jobs))
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait((settled, gone), timeout=deadline - time.monotonic(), return_when="FIRST_COMPLETED")
        if settled.done():
            return [job.done() for job in jobs]
        if gone.done():
            raise client_gone()
        raise Expired
    finally:
        settled.cancel()
        gone.cancel()
        for job in jobs:
            job.abandoned = True


def call_in(loop: asyncio.AbstractEventLoop, callback: Callable[..., object], *arguments: object) -> None:
    """Call something in an event loop, from another thread; a loop that is closed has nobody who waits."""
    try:
        loop.call_soon_threadsafe(callback, *arguments)
    except RuntimeError:
        return


def _settle(settled: asyncio.Future[None], batcher: Batcher, jobs: Sequence[Job]) -> None:
    batcher.count(jobs)
    if not settled.done():
        settled.set_result(None)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass

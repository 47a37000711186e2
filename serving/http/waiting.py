"""Waiting without holding anything up: for a version, for the batcher, and for clients that went away."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from fastapi import Request

from index_format.errors import ColonnadeError, EncoderMismatch, ObjectMissing, StorageError
from serving.batcher import Ask, Done, Expired, Job
from serving.http.errors import Refusal, try_again
from serving.http.parts import Parts
from serving.http.schemas import Versioned
from serving.snapshot import Snapshot

VERSION_SECONDS = 5.0  # as long as a commit takes to be searchable, at the default settings
_LOOK_SECONDS = 0.02
_UNWATCHED_SECONDS = 0.05

Result = TypeVar("Result")


async def wanted_snapshot(parts: Parts, wanted: Versioned, deadline: float) -> Snapshot:
    """The snapshot that a request asks for. Raises Refusal when it is not to be had."""
    if wanted.version is not None:
        return await _exact(parts, wanted.version, deadline)
    least = wanted.min_version or 0
    if parts.searcher.snapshot.version < least:
        parts.refresher.look_now()
        with parts.waiters.one_more():
            await _at_least(parts, least, deadline)
    return parts.searcher.snapshot


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
    held = parts.searcher.held(version)
    if held is not None:
        return held
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
    except (TimeoutError, Expired):
        raise too_late() from None


def too_late() -> Refusal:
    """The answer at the deadline."""
    return Refusal(504, "deadline_exceeded", "The deadline passed before there was an answer.")


async def answers(parts: Parts, request: Request, asks: Sequence[Ask], deadline: float) -> list[Done]:
    """What the batcher makes of the asks.

    Raises Overloaded where it is busy, and Refusal when it is too late, or nobody waits any more.
    """
    jobs = parts.batcher.submit(asks, deadline)
    try:
        # Most are answered before it would be worth a task to hear of a client that went away.
        await _settled_within(jobs, min(_UNWATCHED_SECONDS, deadline - time.monotonic()))
        if not all(job.future.done() for job in jobs):
            await _unless_gone(request, jobs, deadline)
        return [job.future.result() for job in jobs]
    except Expired:
        raise too_late() from None
    finally:
        for job in jobs:
            job.abandoned = True


async def _settled_within(jobs: Sequence[Job], seconds: float) -> None:
    """Until all are settled, or for so long; `asyncio.wait` takes more steps, all of which a search waits for."""
    settled = _when_settled(jobs)
    timer = settled.get_loop().call_later(seconds, _settle, settled)
    try:
        await settled
    finally:
        timer.cancel()


def _when_settled(jobs: Sequence[Job]) -> asyncio.Future[None]:
    """What is done once all jobs are; however many they are, the worker wakes the event loop once."""
    loop = asyncio.get_running_loop()
    settled, count = loop.create_future(), itertools.count(1)

    def count_one(_: object) -> None:
        if next(count) == len(jobs):  # one step of the interpreter: two threads may be here
            try:
                loop.call_soon_threadsafe(_settle, settled)
            except RuntimeError:  # the loop is closed, and nobody waits any more
                return

    for job in jobs:
        job.future.add_done_callback(count_one)
    return settled


def _settle(settled: asyncio.Future[None]) -> None:
    if not settled.done():
        settled.set_result(None)


async def _unless_gone(request: Request, jobs: Sequence[Job], deadline: float) -> None:
    """Until all are settled. Raises Expired at the deadline, and Refusal when the client went away."""
    settled, gone = _when_settled(jobs), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait((settled, gone), timeout=deadline - time.monotonic(), return_when="FIRST_COMPLETED")
        if settled.done():
            return
        if gone.done():
            raise Refusal(499, "client_gone", "Nobody waits for this answer.")
        raise Expired
    finally:
        settled.cancel()
        gone.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass

"""Waiting without holding anything up: for a version, for the batcher, and for clients that went away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from fastapi import Request

from index_format.errors import ColonnadeError
from serving.batcher import Ask, Done, Expired, Job, Overloaded
from serving.http.errors import Refusal, try_again
from serving.http.parts import Parts
from serving.http.schemas import Versioned
from serving.snapshot import Snapshot

VERSION_SECONDS = 5.0  # as long as a commit takes to be searchable, at the default settings
_LOOK_SECONDS = 0.01


async def wanted_snapshot(parts: Parts, wanted: Versioned, deadline: float) -> Snapshot:
    """The snapshot that a request asks for. Raises Refusal when it is not to be had."""
    if wanted.version is not None:
        return await _exact(parts, wanted.version, deadline)
    least = wanted.min_version or 0
    if parts.searcher.snapshot.version < least:
        parts.refresher.look_now()
        until = min(deadline, time.monotonic() + VERSION_SECONDS)
        while parts.searcher.snapshot.version < least:
            if time.monotonic() > until:
                message = f"Version {parts.searcher.snapshot.version} is served, and not yet {least} or later."
                raise try_again("version_not_served", message, 1)
            await asyncio.sleep(_LOOK_SECONDS)
    return parts.searcher.snapshot


async def wait_for_words(snapshot: Snapshot, deadline: float) -> None:
    """Until the words of a snapshot are at hand, off the worker. Raises Refusal when that takes too long.

    Once they are, those of later versions are made before these are served.
    """
    if snapshot.has_words:
        return
    try:
        async with asyncio.timeout(deadline - time.monotonic()):
            await asyncio.to_thread(lambda: snapshot.words)
    except TimeoutError:
        raise try_again("words_not_ready", "The words of this version are being counted, for BM25.", 5) from None


async def _exact(parts: Parts, version: int, deadline: float) -> Snapshot:
    try:
        async with asyncio.timeout(deadline - time.monotonic()):
            return await asyncio.to_thread(parts.searcher.at_version, version)
    except TimeoutError:
        raise try_again("version_not_open", f"Version {version} is being opened, which takes a while.", 5) from None
    except ColonnadeError:
        message = f"Version {version} is not retained, or its files are gone; GET /v1/versions lists what there is."
        raise Refusal(404, "version_not_retained", message) from None


async def answers(parts: Parts, request: Request, asks: Sequence[Ask], deadline: float) -> list[Done]:
    """What the batcher makes of the asks. Raises Refusal when it is busy, too late, or nobody waits any more."""
    try:
        jobs = parts.batcher.submit(asks, deadline)
    except Overloaded as error:
        raise try_again("overloaded", "Too many queries wait. Come back later.", error.seconds) from None
    everything = asyncio.ensure_future(_all(jobs))
    gone = asyncio.ensure_future(_gone(request))
    either: set[asyncio.Future[Any]] = {everything, gone}
    try:
        await asyncio.wait(either, timeout=deadline - time.monotonic(), return_when="FIRST_COMPLETED")
        if everything.done():
            return everything.result()
        if gone.done():
            raise Refusal(499, "client_gone", "Nobody waits for this answer.")
        raise Expired
    except Expired:
        raise Refusal(504, "deadline_exceeded", "The deadline passed before there was an answer.") from None
    finally:
        _let_go(jobs, everything, gone)


async def _all(jobs: Sequence[Job]) -> list[Done]:
    """What all jobs returned. Raises what one of them raised, once all are settled: none is left unheard."""
    settled = await asyncio.gather(*(asyncio.wrap_future(job.future) for job in jobs), return_exceptions=True)
    done = []
    for one in settled:
        if isinstance(one, BaseException):
            raise one
        done.append(one)
    return done


def _let_go(jobs: Sequence[Job], *waiting: asyncio.Future[Any]) -> None:
    for job in jobs:
        job.abandoned = True
    for one in waiting:
        one.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass

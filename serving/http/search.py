"""Routes that answer questions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from fastapi import FastAPI, Request, Response

from index_format.filters import Filter
from serving.batcher import Ask, Done, one_by_one
from serving.http.errors import wrong_field
from serving.http.parts import Parts
from serving.http.routes import as_json, needs, tenant_of
from serving.http.schemas import (
    Answered,
    BatchAnswered,
    BatchSearchRequest,
    Encoded,
    EncodeRequest,
    HitField,
    Question,
    SearchRequest,
    as_query,
)
from serving.http.waiting import answers, wait_for_words, wanted_snapshot
from serving.search import Hit
from serving.searcher import Answer, Asked, Outcome, Searcher
from serving.shadow import ShadowCheck
from serving.snapshot import Snapshot

_HIT = tuple(Hit.__dataclass_fields__)
_OPTIONAL = {"title", "text", "metadata"}


def add_routes(app: FastAPI, parts: Parts) -> None:
    """Search, several at once, and encode."""

    @app.post("/v1/search", openapi_extra=needs("search", queued=True), response_model=Answered)
    async def search(body: SearchRequest, request: Request) -> Response:
        """The best passages for a text, or for its token vectors."""
        deadline = parts.deadline(body.timeout_ms)
        snapshot = await wanted_snapshot(parts, body, deadline)
        if body.hybrid:
            await wait_for_words(parts, snapshot, deadline)
        (done,) = await answers(parts, request, await _asks(parts, [body], snapshot, request), deadline)
        answer: Answer = done.value
        told = {"version": answer.version, "k": body.k, "recall": body.recall, "scored": answer.scored}
        request.state.told = {**told, "hits": len(answer.hits), **_times(done)}
        return as_json(_answered(body, done))

    @app.post("/v1/batch-search", openapi_extra=needs("search", queued=True), response_model=BatchAnswered)
    async def batch_search(body: BatchSearchRequest, request: Request) -> Response:
        """Several questions; all answers come from one version."""
        _refuse_more(parts, "queries", len(body.queries))
        deadline = parts.deadline(body.timeout_ms)
        snapshot = await wanted_snapshot(parts, body, deadline)
        if any(one.hybrid for one in body.queries):
            await wait_for_words(parts, snapshot, deadline)
        asks = await _asks(parts, body.queries, snapshot, request)
        done = await answers(parts, request, asks, deadline)
        request.state.told = {"version": snapshot.version, "queries": len(asks), **_times_together(done)}
        answered = [_answered(*pair) for pair in zip(body.queries, done, strict=True)]
        return as_json({"version": snapshot.version, "answers": answered})

    @app.post("/v1/encode", openapi_extra=needs("search", queued=True), response_model=Encoded)
    async def encode(body: EncodeRequest, request: Request) -> Response:
        """The token vectors of queries, as /v1/search takes them."""
        _refuse_more(parts, "texts", len(body.texts))
        asks = [Ask(text, None, _EACH_AS_LIST) for text in body.texts]
        done = await answers(parts, request, asks, parts.deadline(body.timeout_ms))
        manifest = parts.searcher.snapshot.manifest
        request.state.told = {"version": manifest.version, "queries": len(asks), **_times_together(done)}
        told = {"version": manifest.version, "encoder": manifest.encoder.name, "dim": manifest.encoder.dim}
        return as_json({**told, "vectors": [one.value for one in done]})


def _refuse_more(parts: Parts, field: str, count: int) -> None:
    """Raise Refusal for what would never find room in the queue, not even in an empty one."""
    most = parts.settings.queue_limit
    if count > most:
        raise wrong_field(field, f"at most {most} at once, for no more may wait (serve --queue); got {count}")


async def _asks(parts: Parts, questions: Sequence[Question], snapshot: Snapshot, request: Request) -> list[Ask]:
    tenant = tenant_of(request)
    if tenant is None:
        return [_ask(parts, one, snapshot, one.filter) for one in questions]
    # Off the loop: what columns a tenant has is read from the files when it is first needed.
    filters = await asyncio.to_thread(lambda: [snapshot.within(one.filter, tenant) for one in questions])
    return [_ask(parts, one, snapshot, within) for one, within in zip(questions, filters, strict=True)]


def _ask(parts: Parts, asked: Question, snapshot: Snapshot, matching: Filter | None) -> Ask:
    query = as_query(asked, snapshot.manifest.encoder.dim, matching)
    return Ask(query.text, query.vectors, _Searches(parts.searcher, parts.shadow, snapshot), query)


@dataclass(frozen=True, slots=True)
class _Searches:
    """Work on the questions of one version: equal for all of them, whichever requests they came with."""

    searcher: Searcher
    shadow: ShadowCheck
    snapshot: Snapshot

    def __call__(self, asked: Sequence[Asked], is_wanted: Callable[[int], bool]) -> Iterator[list[tuple[int, Outcome]]]:
        for made in self.searcher.answers(asked, self.snapshot, is_wanted=is_wanted):
            yield made
            for place, answer in made:
                if not isinstance(answer, Exception):
                    self.shadow.offer(self.snapshot, *asked[place], answer)


_EACH_AS_LIST = one_by_one(lambda vectors: vectors.tolist())


def _answered(asked: Question, done: Done) -> dict[str, Any]:
    answer: Answer = done.value
    return {
        "version": answer.version,
        "hits": _hits(answer.hits, asked.fields),
        "recall": answer.recall,
        "scored": answer.scored,
        **_times(done),
        "explanation": answer.explanation,
    }


def _hits(hits: list[Hit], fields: list[HitField] | None) -> Any:
    left_out = set() if fields is None else _OPTIONAL - set(fields)
    if hits and hits[0].fused is None:
        left_out = left_out | {"fused"}
    names = [name for name in _HIT if name not in left_out]
    values = attrgetter(*names)
    return [dict(zip(names, values(hit), strict=True)) for hit in hits]


def _times(done: Done) -> dict[str, float]:
    return _rounded({"queue_ms": done.queue_ms, "encode_ms": done.encode_ms, "search_ms": done.work_ms})


def _times_together(several: Sequence[Done]) -> dict[str, float]:
    """Of questions that came together: the longest wait, the longest encoding, and all searches, one after another."""
    longest = {"queue_ms": max(one.queue_ms for one in several), "encode_ms": max(one.encode_ms for one in several)}
    return _rounded({**longest, "search_ms": sum(one.work_ms for one in several)})


def _rounded(spent: dict[str, float]) -> dict[str, float]:
    return {name: round(milliseconds, 3) for name, milliseconds in spent.items()}

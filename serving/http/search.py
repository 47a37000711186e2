"""Routes that answer questions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from operator import attrgetter
from typing import Any

from fastapi import FastAPI

from index_format.filters import Filter
from serving.batcher import Ask, Done, one_by_one
from serving.http.errors import wrong_field
from serving.http.parts import Parts
from serving.http.routes import needs
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
from serving.http.waiting import Asking, snapshot_at_hand, wait_for_words, wanted_snapshot
from serving.search import Hit
from serving.searcher import Answer, Asked, Outcome, Searcher
from serving.shadow import ShadowCheck
from serving.snapshot import Snapshot

_HIT = tuple(Hit.__dataclass_fields__)
_OPTIONAL = {"title", "text", "metadata"}


def add_routes(app: FastAPI, parts: Parts) -> None:
    """Search, several at once, and encode."""

    @app.post("/v1/search", openapi_extra=needs("search", queued=True), response_model=Answered)
    def search(body: SearchRequest) -> Asking:
        """The best passages for a text, or for its token vectors."""
        return _Search(parts, body, [body])

    @app.post("/v1/batch-search", openapi_extra=needs("search", queued=True), response_model=BatchAnswered)
    def batch_search(body: BatchSearchRequest) -> Asking:
        """Several questions; all answers come from one version."""
        _refuse_more(parts, "queries", len(body.queries))
        return _BatchSearch(parts, body, body.queries)

    @app.post("/v1/encode", openapi_extra=needs("search", queued=True), response_model=Encoded)
    def encode(body: EncodeRequest) -> Asking:
        """The token vectors of queries, as /v1/search takes them."""
        _refuse_more(parts, "texts", len(body.texts))
        return _Encode(parts, body)


def _refuse_more(parts: Parts, field: str, count: int) -> None:
    """Raise Refusal for what would never find room in the queue, not even in an empty one."""
    most = parts.settings.queue_limit
    if count > most:
        raise wrong_field(field, f"at most {most} at once, for no more may wait (serve --queue); got {count}")


class _BatchSearch(Asking):
    """Questions to one version, which may have to be waited for, and so may its words and a tenant's columns."""

    def __init__(self, parts: Parts, wanted: SearchRequest | BatchSearchRequest, questions: Sequence[Question]) -> None:
        super().__init__(parts.deadline(wanted.timeout_ms))
        self._parts = parts
        self._wanted = wanted
        self._questions = questions
        self._is_hybrid = any(one.hybrid for one in questions)

    def at_hand(self, tenant: Filter | None) -> list[Ask] | None:
        snapshot = snapshot_at_hand(self._parts, self._wanted)
        if snapshot is None or tenant is not None or (self._is_hybrid and not snapshot.has_words):
            return None
        return [_ask(self._parts, one, one.filter, snapshot) for one in self._questions]

    async def prepared(self, tenant: Filter | None) -> list[Ask]:
        snapshot = await wanted_snapshot(self._parts, self._wanted, self.deadline)
        if self._is_hybrid:
            await wait_for_words(self._parts, snapshot, self.deadline)
        filters = [one.filter for one in self._questions]
        if tenant is not None:
            # Off the loop: what columns a tenant has is read from the files when it is first needed.
            filters = await asyncio.to_thread(lambda: [snapshot.within(one, tenant) for one in filters])
        return [_ask(self._parts, *pair, snapshot) for pair in zip(self._questions, filters, strict=True)]

    def answer(self, done: Sequence[Done]) -> object:
        answers = [_answered(*pair) for pair in zip(self._questions, done, strict=True)]
        return {"version": done[0].value.version, "answers": answers}

    def told(self, done: Sequence[Done]) -> dict[str, object]:
        return {"version": done[0].value.version, "queries": len(done), **_times_together(done)}


class _Search(_BatchSearch):
    """The same of one question."""

    def answer(self, done: Sequence[Done]) -> object:
        return _answered(self._questions[0], done[0])

    def told(self, done: Sequence[Done]) -> dict[str, object]:
        asked, answer = self._questions[0], done[0].value
        told = {"version": answer.version, "k": asked.k, "recall": asked.recall, "scored": answer.scored}
        return {**told, "hits": len(answer.hits), **_times(done[0])}


class _Encode(Asking):
    """Texts, each to be encoded."""

    def __init__(self, parts: Parts, wanted: EncodeRequest) -> None:
        super().__init__(parts.deadline(wanted.timeout_ms))
        self._texts = wanted.texts
        self._manifest = parts.searcher.snapshot.manifest

    def at_hand(self, tenant: Filter | None) -> list[Ask]:  # noqa: ARG002  # nothing of an index is looked at
        return [Ask(text, None, _EACH_AS_LIST) for text in self._texts]

    async def prepared(self, tenant: Filter | None) -> list[Ask]:
        return self.at_hand(tenant)

    def answer(self, done: Sequence[Done]) -> object:
        told = {"version": self._manifest.version, "encoder": self._manifest.encoder.name}
        return {**told, "dim": self._manifest.encoder.dim, "vectors": [one.value for one in done]}

    def told(self, done: Sequence[Done]) -> dict[str, object]:
        return {"version": self._manifest.version, "queries": len(done), **_times_together(done)}


def _ask(parts: Parts, asked: Question, matching: Filter | None, snapshot: Snapshot) -> Ask:
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
    names, values = _shown(None if fields is None else frozenset(fields), bool(hits) and hits[0].fused is not None)
    return [dict(zip(names, values(hit), strict=True)) for hit in hits]


@cache
def _shown(
    fields: frozenset[HitField] | None, is_hybrid: bool
) -> tuple[list[str], Callable[[Hit], tuple[object, ...]]]:
    """The names of what is told of a hit, and what gets their values."""
    left_out = _OPTIONAL - (_OPTIONAL if fields is None else fields) | (set() if is_hybrid else {"fused"})
    names = [name for name in _HIT if name not in left_out]
    return names, attrgetter(*names)


def _times(done: Done) -> dict[str, float]:
    return _rounded({"queue_ms": done.queue_ms, "encode_ms": done.encode_ms, "search_ms": done.work_ms})


def _times_together(several: Sequence[Done]) -> dict[str, float]:
    """Of questions that came together: the longest wait, the longest encoding, and all searches, one after another."""
    longest = {"queue_ms": max(one.queue_ms for one in several), "encode_ms": max(one.encode_ms for one in several)}
    return _rounded({**longest, "search_ms": sum(one.work_ms for one in several)})


def _rounded(spent: dict[str, float]) -> dict[str, float]:
    return {name: round(milliseconds, 3) for name, milliseconds in spent.items()}

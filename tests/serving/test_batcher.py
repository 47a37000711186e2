"""The worker of the queue and the one of the shadow check outlive whatever they meet."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from encoding.encoder import Encoder
from index_format.index import Index
from serving.batcher import Ask, Batcher, Done, Expired, Job, Overloaded, WorkerFault, one_by_one
from serving.metrics import Metrics
from serving.query import SearchQuery
from serving.searcher import Answer, Searcher
from serving.shadow import ShadowCheck
from serving.snapshot import Snapshot
from tests.serving.vectors import add_texts
from tests.waiting import until

Vectors = NDArray[np.float32]


class Panic(BaseException):
    """As a tokenizer written in Rust raises it: no Exception."""


class Encoding:
    """Encodes when it may; refuses texts that are bad, and with them the batch that they are in."""

    def __init__(self) -> None:
        self.may_go = threading.Event()
        self.batches: list[list[str]] = []

    def __call__(self, texts: Sequence[str]) -> list[Vectors]:
        self.batches.append(list(texts))
        assert self.may_go.wait(30)
        if "bad" in texts:
            raise ValueError("bad")
        return [np.zeros((1, 4), np.float32) for _ in texts]


@contextmanager
def working(encode: Callable[[Sequence[str]], list[Vectors]], limit: int = 8) -> Iterator[tuple[Batcher, Metrics]]:
    metrics = Metrics()
    batcher = Batcher(encode, metrics, limit)
    batcher.start()
    try:
        yield batcher, metrics
    finally:
        batcher.stop()


def _submit(batcher: Batcher, *texts: str, work: Callable[[Vectors], object] = lambda _: "done") -> list[Job]:
    return batcher.submit([Ask(text, None, one_by_one(work)) for text in texts], time.monotonic() + 60, lambda _: None)


def done(job: Job) -> Done:
    """What was made of a job, once it is settled; raises what prevented it."""
    until(lambda: job.outcome is not None, "the job is settled")
    return job.done()


def _value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def test_a_text_that_cannot_be_encoded_fails_alone() -> None:
    """Those that waited with it are encoded each by itself, and answered."""
    encoding = Encoding()
    with working(encoding) as (batcher, _):
        first = _submit(batcher, "first")
        until(lambda: encoding.batches, "a batch is encoded")
        jobs = _submit(batcher, "good", "bad", "good too")
        encoding.may_go.set()
        assert [done(job).value for job in (*first, jobs[0], jobs[2])] == ["done"] * 3
        with pytest.raises(ValueError, match="bad"):
            done(jobs[1])
    assert encoding.batches == [["first"], ["good", "bad", "good too"], ["good"], ["bad"], ["good too"]]


@dataclass(frozen=True)
class Together:
    """Answers questions two at a time, those of a batch with the same name; what is bad is an error.

    pause: what happens before a slow question is answered.
    """

    name: str
    given: list[list[str]] = field(compare=False)
    pause: Callable[[], object] = field(compare=False)

    def __call__(
        self, asked: Sequence[tuple[str, Vectors]], is_wanted: Callable[[int], bool]
    ) -> Iterator[list[tuple[int, object]]]:
        self.given.append([question for question, _ in asked])
        if self.name == "broken":
            raise OSError("broken")
        for first in range(0, len(asked), 2):
            places = [place for place in range(first, min(first + 2, len(asked))) if is_wanted(place)]
            questions = [asked[place][0] for place in places]
            if "slow" in questions:
                self.pause()
            made = [ValueError("bad") if one == "bad" else f"{self.name} {one}" for one in questions]
            if made:
                yield list(zip(places, made, strict=True))


def _ask_together(batcher: Batcher, encoding: Encoding, *asks: Ask) -> list[Job]:
    """Jobs that waited together, while another was encoded."""
    _submit(batcher, "first")
    until(lambda: encoding.batches, "a batch is encoded")
    jobs = batcher.submit(asks, time.monotonic() + 60, lambda _: None)
    encoding.may_go.set()
    return jobs


def test_asks_with_the_same_work_are_worked_on_together() -> None:
    """Each has its own answer or its own error, and its share of the time; another work, or one that fails, its own."""
    encoding, given, begun = Encoding(), [], time.monotonic()
    with working(encoding) as (batcher, _):
        named = [("a", "1"), ("b", "2"), ("a", "bad"), ("broken", "3"), ("a", "slow"), ("a", "4")]
        work = {name: Together(name, given, lambda: time.sleep(0.3)) for name, _ in named}
        asks = [Ask(None, np.zeros((1, 4), np.float32), work[name], question) for name, question in named]
        jobs = _ask_together(batcher, encoding, *asks)
        for place, error in ((2, ValueError), (3, OSError)):
            with pytest.raises(error):
                done(jobs[place])
        made = [done(jobs[place]) for place in (0, 1, 4, 5)]
    spent_ms = 1000 * (time.monotonic() - begun)
    assert [one.value for one in made] == ["a 1", "b 2", "a slow", "a 4"]
    assert sorted(given) == [["1", "bad", "slow", "4"], ["2"], ["3"]]
    assert made[2].work_ms == made[3].work_ms >= 150
    assert sum(one.work_ms for one in made) <= spent_ms  # as shares do, however slow the machine is


def test_who_is_gone_when_others_have_been_worked_on_is_dropped() -> None:
    """Whose deadline passed is told so; both are counted, and whoever was asked with them has an answer."""
    encoding, given = Encoding(), []
    with working(encoding) as (batcher, metrics):
        may_go, named = threading.Event(), ["slow", "1", "abandoned", "expired", "2"]
        work = Together("a", given, lambda: may_go.wait(60))
        asks = [Ask(None, np.zeros((1, 4), np.float32), work, question) for question in named]
        jobs = _ask_together(batcher, encoding, *asks)
        until(lambda: given, "the work has begun")
        jobs[2].abandoned, jobs[3].deadline = True, time.monotonic()
        may_go.set()
        assert [done(jobs[place]).value for place in (0, 1, 4)] == ["a slow", "a 1", "a 2"]
        with pytest.raises(Expired):
            done(jobs[3])
        assert jobs[2].outcome is None
        assert _value(metrics, "colonnade_dropped_queries_total") == 2


def test_the_worker_outlives_what_nobody_foresaw() -> None:
    """Whoever is at hand is told, the fault is counted, and the next query is answered."""
    encoding = Encoding()
    encoding.may_go.set()

    def panic(_: Vectors) -> object:
        raise Panic

    with working(encoding) as (batcher, metrics):
        with pytest.raises(WorkerFault):
            done(_submit(batcher, "a", work=panic)[0])
        assert done(_submit(batcher, "b")[0]).value == "done"
        assert _value(metrics, "colonnade_faults_total", where="batcher") == 1
        assert batcher.is_ready
    assert not batcher.is_ready


def test_a_full_queue_is_told_before_anything_is_read() -> None:
    """With the time that what waits will take; and what is refused counts."""
    encoding = Encoding()
    with working(encoding, limit=2) as (batcher, metrics):
        _submit(batcher, "at work")
        until(lambda: encoding.batches, "a batch is encoded")
        _submit(batcher, "waits")
        batcher.refuse_when_full()
        _submit(batcher, "waits too")
        with pytest.raises(Overloaded):
            batcher.refuse_when_full()
        assert _value(metrics, "colonnade_rejected_queries_total") == 1
        encoding.may_go.set()


class FaultySearcher(Searcher):
    """A searcher whose exact answers fail when told, and wait until they may come."""

    fails = True
    begun, may_go = threading.Event(), threading.Event()

    def exact(self, query: SearchQuery, vectors: Vectors, snapshot: Snapshot) -> Answer:
        self.begun.set()
        if self.fails:
            raise RuntimeError("honey")
        assert self.may_go.wait(60)
        return super().exact(query, vectors, snapshot)


def test_a_shadow_check_that_fails_is_a_fault_and_the_next_one_is_made(tmp_path: Path, encoder: Encoder) -> None:
    """And to stop takes no longer than it may, even where one is being made and another one waits."""
    index = Index.at(tmp_path / "index")
    add_texts(index, encoder, {"bees": "Bees make honey."})
    searcher, metrics = FaultySearcher(index, encoder), Metrics()
    query, vectors = SearchQuery("honey"), encoder.encode_query("honey")
    answer = searcher.answer(query, vectors)
    check = ShadowCheck(searcher, metrics, 1.0)
    check.start()

    def offer() -> None:
        searcher.begun.clear()
        check.offer(searcher.snapshot, query, vectors, answer)
        assert searcher.begun.wait(30)

    offer()
    searcher.fails = False
    offer()
    assert _value(metrics, "colonnade_faults_total", where="shadow") == 1
    check.offer(searcher.snapshot, query, vectors, answer)  # waits, and so there is no room to say that it is over
    threading.Timer(0.2, searcher.may_go.set).start()
    stopping = threading.Thread(target=check.stop, daemon=True)
    stopping.start()
    stopping.join(30)
    assert not stopping.is_alive()
    assert _value(metrics, "colonnade_shadow_recall_count") == 1

"""Queries that wait together are encoded and searched together, without a timer: a worker takes what is there.

One worker, because one query uses all cores. While it is busy others gather in a bounded queue; a server that is
idle answers at once. Who comes when the queue is full, or so long that the deadline would pass, is refused before
anything is spent. What has expired or was abandoned is dropped before it is encoded, and again before it is searched.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.faults import places_of
from serving.metrics import Metrics

_log = logging.getLogger("colonnade.serving")

Vectors = NDArray[np.float32]

QUEUE_LIMIT = 256
MOST_AT_ONCE = 32
_REMEMBERED = 9  # batches whose median says how long a query takes: one that was held up says nothing


class Overloaded(Exception):
    """Nothing was done, for too many wait already. seconds: when it is worth another try."""

    def __init__(self, seconds: float) -> None:
        super().__init__("too many queries wait")
        self.seconds = seconds


class Expired(Exception):
    """The deadline passed before the work began."""


class WorkerFault(Exception):
    """The worker met what nobody foresaw, and dropped what it had at hand."""


Work = Callable[[Sequence[tuple[Any, Vectors]], Callable[[int], bool]], Iterable[list[tuple[int, Any]]]]
"""Makes the answers of asks that wait together: of the question and the vectors float32 [Q, D] of each.

They come in lists, each of what was made at once, as (place among the asks, answer or the exception in its stead).
Before it makes them it asks, by place, whether somebody still waits.
"""


def one_by_one(answer: Callable[[Vectors], Any]) -> Work:
    """Work that makes each answer by itself, of vectors float32 [Q, D]."""

    def work(asked: Sequence[tuple[Any, Vectors]], is_wanted: Callable[[int], bool]) -> Iterator[list[tuple[int, Any]]]:
        for place, (_, vectors) in enumerate(asked):
            if is_wanted(place):
                try:
                    yield [(place, answer(vectors))]
                except Exception as error:  # noqa: BLE001  # whoever asked is told
                    yield [(place, error)]

    return work


@dataclass(frozen=True, slots=True, eq=False)
class Ask:
    """Something that needs the vectors of a text, or has them. Asks with equal `work` are handed to it together.

    question: what the work is told beside the vectors.
    """

    text: str | None
    vectors: Vectors | None
    work: Work
    question: Any = None


@dataclass(frozen=True, slots=True)
class Done:
    """What `work` made, and the milliseconds that the request spent: waiting, in the encoder, at work.

    encode_ms: of its whole batch. work_ms: its share of what was made at once.
    """

    value: Any
    queue_ms: float
    encode_ms: float
    work_ms: float


@dataclass(slots=True, eq=False)
class Job:
    """An accepted ask. Times are of `time.monotonic`. The worker alone settles it, and then calls `on_settled`.

    A future does the same and more, with a lock and a condition for each.
    """

    ask: Ask
    deadline: float
    accepted_at: float
    on_settled: Callable[[], None]
    outcome: Done | Exception | None = None
    abandoned: bool = False  # set by whoever asked, and looked at before each step

    def is_due(self) -> bool:
        """Whether somebody still waits for it; answers that it expired where it did."""
        if self.abandoned:
            return False
        if time.monotonic() > self.deadline:
            self.settle(Expired())
            return False
        return True

    def settle(self, outcome: Done | Exception) -> None:
        """Say what became of it."""
        self.outcome = outcome
        self.on_settled()

    def done(self) -> Done:
        """What was made, once it is settled; raises what prevented it."""
        assert self.outcome is not None, "not settled yet"
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


class Batcher:
    """The queue and its worker. `start` before the first `submit`; `stop` answers all that was accepted."""

    def __init__(
        self, encode: Callable[[Sequence[str]], list[Vectors]], metrics: Metrics, limit: int = QUEUE_LIMIT
    ) -> None:
        self._encode = encode
        self._metrics = metrics
        self._limit = limit
        self._waiting: deque[Job] = deque()
        self._at_work = 0
        self._seconds_each = deque([0.0] * _REMEMBERED, _REMEMBERED)
        self._usual_seconds = 0.0
        self._changed = threading.Condition()
        self.is_ready = False  # whether what is submitted now would be answered
        self._worker = threading.Thread(target=self._run, name="colonnade-batcher", daemon=True)
        metrics.queue_length.set_function(lambda: len(self._waiting))

    def start(self) -> None:
        """Begin to work."""
        self.is_ready = True
        self._worker.start()

    def submit(self, asks: Sequence[Ask], deadline: float, on_settled: Callable[[list[Job]], None]) -> list[Job]:
        """Accept all of the asks or none. Raises Overloaded, at once.

        on_settled: called by the worker with the jobs once all of them are settled; it raises nothing.
        """
        now, settled = time.monotonic(), count(1)
        jobs: list[Job] = []

        def count_one() -> None:
            if next(settled) == len(jobs):
                on_settled(jobs)

        with self._changed:
            wait = self._wait_seconds()
            if not self.is_ready or len(self._waiting) + len(asks) > self._limit or now + wait > deadline:
                self._metrics.rejected.inc(len(asks))
                raise Overloaded(wait)
            jobs += [Job(ask, deadline, now, count_one) for ask in asks]
            self._waiting.extend(jobs)
            self._changed.notify()
        return jobs

    def count(self, jobs: Sequence[Job]) -> None:
        """Have the metrics tell of jobs that are settled. By whoever asked, once the answer is on its way."""
        for job in jobs:
            if isinstance(job.outcome, Done):
                self._metrics.observe(job.outcome.queue_ms, job.outcome.encode_ms, job.outcome.work_ms)

    def refuse_when_full(self) -> None:
        """Raise Overloaded where not even one query would be accepted, so that nothing of it need be read."""
        if len(self._waiting) >= self._limit:
            self._metrics.rejected.inc()
            raise Overloaded(self._wait_seconds())

    def _wait_seconds(self) -> float:
        """How long what comes now would wait."""
        ahead = len(self._waiting) + self._at_work
        return ahead * self._usual_seconds

    def stop(self) -> None:
        """Accept nothing more, finish what was accepted, and end the worker."""
        with self._changed:
            self.is_ready = False
            self._changed.notify()
        self._worker.join()

    def _run(self) -> None:
        try:
            while batch := self._take():
                self._outlive(batch)
                self._at_work = 0
        finally:
            self.is_ready = False

    def _outlive(self, batch: list[Job]) -> None:
        """Work on a batch, whatever it does."""
        try:
            self._work_on(batch)
        except BaseException as error:  # noqa: BLE001  # a tokenizer's panic is no Exception; the queue goes on
            self._metrics.faults.labels("batcher").inc()
            _log.error("a batch failed with %s", places_of(error))
            for job in batch:
                if job.outcome is None:
                    job.settle(WorkerFault())

    def _work_on(self, batch: list[Job]) -> None:
        start = time.monotonic()
        due = [job for job in batch if job.is_due()]
        if len(due) < len(batch):
            self._metrics.dropped.inc(len(batch) - len(due))
        if due:
            self._answer(due)
            self._seconds_each.append((time.monotonic() - start) / len(due))
            self._usual_seconds = sorted(self._seconds_each)[_REMEMBERED // 2]
            self._metrics.batch_queries.observe(len(due))  # after the answers, which need not wait for it

    def _take(self) -> list[Job]:
        """What waits, up to a batch; nothing only when stopped with an empty queue."""
        with self._changed:
            while not self._waiting and self.is_ready:
                self._changed.wait()
            taken = [self._waiting.popleft() for _ in range(min(MOST_AT_ONCE, len(self._waiting)))]
            self._at_work = len(taken)
            return taken

    def _answer(self, jobs: list[Job]) -> None:
        begun = time.monotonic()
        texts = [job.ask.text for job in jobs if job.ask.text is not None]
        encoded = iter(self._encoded(texts))
        encode_ms = 1000 * (time.monotonic() - begun)
        together: dict[Work, list[tuple[Job, Vectors]]] = {}
        for job in jobs:
            vectors = job.ask.vectors if job.ask.text is None else next(encoded)
            assert vectors is not None
            if isinstance(vectors, Exception):
                job.settle(vectors)
                self._at_work -= 1
            else:
                together.setdefault(job.ask.work, []).append((job, vectors))
        for work, ready in together.items():
            self._work_together(work, ready, begun, encode_ms)

    def _encoded(self, texts: list[str]) -> list[Vectors | Exception]:
        """The vectors of each text, or why it has none: one that fails takes none of the others with it."""
        try:
            return list(self._encode(texts)) if texts else []
        except Exception as error:  # noqa: BLE001  # whoever asked is told
            if len(texts) == 1:
                return [error]
        return [one for text in texts for one in self._encoded([text])]

    def _work_together(self, work: Work, ready: Sequence[tuple[Job, Vectors]], begun: float, encode_ms: float) -> None:
        """Finish the jobs that have the same work."""

        def is_wanted(place: int) -> bool:
            wanted = ready[place][0].is_due()
            if not wanted:
                self._metrics.dropped.inc()
                self._at_work -= 1
            return wanted

        start = time.monotonic()
        try:
            for made in work([(job.ask.question, vectors) for job, vectors in ready], is_wanted):
                work_ms = 1000 * (time.monotonic() - start) / len(made)
                for place, value in made:
                    job = ready[place][0]
                    self._finish(job, value, 1000 * (begun - job.accepted_at), encode_ms, work_ms)
                start = time.monotonic()
        except Exception as error:  # noqa: BLE001  # whoever asked is told
            for job, _ in ready:
                if job.outcome is None:
                    job.settle(error)

    def _finish(self, job: Job, value: Any, queue_ms: float, encode_ms: float, work_ms: float) -> None:
        self._at_work -= 1
        job.settle(value if isinstance(value, Exception) else Done(value, queue_ms, encode_ms, work_ms))

"""The short way of a question: asked in the step of the event loop that read it, answered in the one that the worker
wakes the loop for, without a task, a future, or ASGI's messages between (docs/decisions/0007).

It does what `ScopedRoute.handle_request` does, in the same order and by the same functions.
"""

from __future__ import annotations

import asyncio
import time
from functools import partial

from serving.batcher import Expired, Job
from serving.http.bodies import as_model, refuse_too_large
from serving.http.plain import PlainCycle
from serving.http.routes import REQUEST_ID, Gate, ScopedRoute, json_bytes, request_id_of
from serving.http.telling import Told, tell
from serving.http.waiting import Asking, call_in, client_gone
from serving.keys import Key

_JSON = (b"content-type", b"application/json")


class Visit:
    """One plain request to a route that asks the worker, from its gate to its line in the log."""

    def __init__(self, route: ScopedRoute, gate: Gate, cycle: PlainCycle) -> None:
        self._route = route
        self._gate = gate
        self._cycle = cycle
        self._start = time.perf_counter()
        self._loop = asyncio.get_running_loop()
        self._headers = cycle.head.fields
        self._key: Key | None = None
        self._asking: Asking | None = None
        self._jobs: list[Job] = []
        self._deadline: asyncio.TimerHandle | None = None
        self._is_over = False
        self._request_id = ""

    def begin(self) -> bool:
        """Ask the worker, or have the refusal sent; False, and nothing is done, where there is something to wait for.

        No answer is sent within this call: what a connection does next begins with the answer.
        """
        gate, headers = self._gate, self._headers
        try:
            self._key = key = gate.enter(headers, self._route.needed_scope, queued=True)
            refuse_too_large(headers, gate.settings)
            asking: Asking = self._route.endpoint(as_model(self._cycle.body, headers, self._route.model))
            asks = asking.at_hand(gate.tenant(key))
            if asks is None:
                return False
            self._asking = asking
            self._jobs = gate.batcher.submit(asks, asking.deadline, self._settled)
        except Exception as error:  # noqa: BLE001  # whatever it is, the client gets no trace of it
            self._loop.call_soon(self._end, error)
        else:  # from here on the worker is at it
            self._cycle.when_gone = self._when_gone
            self._deadline = self._loop.call_at(asking.deadline, self._end, Expired())
        self._request_id = request_id_of(headers)
        return True

    def _settled(self, jobs: list[Job]) -> None:
        """Called by the worker, which makes the JSON: it has the hits in its caches."""
        assert self._asking is not None
        made: bytes | Exception
        try:
            made = json_bytes(self._asking.answer([job.done() for job in jobs]))
        except Exception as error:  # noqa: BLE001  # the loop makes a refusal of it
            made = error
        call_in(self._loop, self._answered, made, jobs)

    def _answered(self, made: bytes | Exception, jobs: list[Job]) -> None:
        self._end(made)
        self._gate.afterwards.add(partial(self._gate.batcher.count, jobs))

    def _when_gone(self) -> None:
        self._end(client_gone())

    def _end(self, made: bytes | Exception) -> None:
        """Send an answer, unless one was sent."""
        if self._is_over:
            return
        self._is_over = True
        if isinstance(made, bytes):
            status, headers, body = 200, [(b"content-length", b"%d" % len(made)), _JSON], made
        else:
            response = self._route.refusal(made, "POST", self._gate.metrics).response()
            status, headers, body = response.status_code, response.raw_headers, bytes(response.body)
        spent = time.perf_counter() - self._start
        self._cycle.answer(status, [*headers, (REQUEST_ID, self._request_id.encode())], body)
        for job in self._jobs:
            job.abandoned = True
        if self._deadline is not None:
            self._deadline.cancel()
        self._gate.afterwards.add(partial(self._tell, status, spent))

    def _tell(self, status: int, spent: float) -> None:
        told = {}
        if status == 200:
            assert self._asking is not None
            told = self._asking.told([job.done() for job in self._jobs])
        tell(self._gate.metrics, Told(self._route.path, status, spent, self._request_id, self._key, told))

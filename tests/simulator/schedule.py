"""Actors take turns: one thread runs at a time, and a seed decides who goes on at every call of the store.

An actor is stopped only where it meets the store, which is where processes meet each other.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field


class Stopped(BaseException):
    """The process of this actor ended here, as with kill -9. No code of the product may catch it."""


@dataclass
class Actor:
    """One process: its clock is `skew` milliseconds off, and it sleeps until step `wakes`."""

    name: str
    work: Callable[[], None]
    skew: int
    wakes: int = 0
    turn: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))


class Schedule:
    """All interleavings come from `random`, which the seed fixes."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.step = 0
        self.current: Actor | None = None
        self.stopping = False
        self._stay = self.random.choice([0.0, 0.5, 0.9])  # how likely an actor goes on for one more call
        self._stall = self.random.choice([0.0, 0.01, 0.03])
        self._running: list[Actor] = []
        self._finished = threading.Semaphore(0)

    @property
    def now(self) -> int:
        """Milliseconds by the clock of the actor whose turn it is."""
        return 1_000_000 + 10 * self.step + (self.current.skew if self.current else 0)

    def run(self, actors: Sequence[Actor]) -> None:
        """Run all actors to their ends."""
        self._running = list(actors)
        threads = [threading.Thread(target=self._live, args=(actor,), daemon=True) for actor in actors]
        for thread in threads:
            thread.start()
        self._hand_over()
        self._finished.acquire()
        self.current = None
        for thread in threads:
            thread.join()

    def pause(self) -> None:
        """Let the seed decide who goes on. Outside a run nobody else is there."""
        me = self.current
        if me is None:
            return
        if self.stopping:
            raise Stopped
        self.step += 1
        if self.random.random() < self._stall:
            me.wakes = self.step + self.random.randrange(20, 300)
        elif self.random.random() < self._stay:
            return
        if self._hand_over() is not me:
            me.turn.acquire()
        if self.stopping:
            raise Stopped

    def _hand_over(self) -> Actor:
        awake = [actor for actor in self._running if actor.wakes <= self.step]
        chosen = self.random.choice(awake) if awake else min(self._running, key=lambda one: one.wakes)
        before, self.current = self.current, chosen
        if chosen is not before:
            chosen.turn.release()
        return chosen

    def _live(self, actor: Actor) -> None:
        actor.turn.acquire()
        try:
            if not self.stopping:
                actor.work()
        except Stopped:
            pass
        finally:
            self._running.remove(actor)
            if self._running:
                self._hand_over()
            else:
                self._finished.release()

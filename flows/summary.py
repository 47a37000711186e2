"""What a run did, as numbers: for the terminal, for `--json`, and for the run's page in the Prefect UI."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from index_format.manifest import FileRef
from tasks.drift import SegmentDrift

_RATED = ("encode", "centroids")  # stages that work on every token


@dataclass(frozen=True, slots=True)
class Summary:
    """The outcome of one run of a flow. `version` is the index's after it; `published` says whether it is new.

    held_back: documents that a sync did not delete, because rows without an id may have been theirs.
    drift: the newest segments against their codebook. warnings: what a person should look at. seconds: of each stage.
    """

    index: str
    version: int
    published: bool
    seen: int = 0
    added: int = 0
    changed: int = 0
    unchanged: int = 0
    deleted: int = 0
    held_back: int = 0
    rejected: int = 0
    rejected_file: FileRef | None = None
    passages: int = 0
    tokens: int = 0
    bytes: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    drift: list[SegmentDrift] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def tokens_a_second(self) -> dict[str, int]:
        """How quick the stages were that work on every token."""
        return {
            stage: round(self.tokens / seconds)
            for stage, seconds in self.seconds.items()
            if stage in _RATED and seconds
        }


class Stopwatch:
    """Wall seconds of each stage of a run."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure the block as one stage; a stage that comes again is added up."""
        start = time.perf_counter()
        yield
        self.seconds[name] = round(self.seconds.get(name, 0.0) + time.perf_counter() - start, 3)

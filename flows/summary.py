"""What a run did, as numbers: for the terminal, for `--json`, and for the run's page in the Prefect UI."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field

from prefect.artifacts import create_table_artifact

from index_format.manifest import FileRef


def show_in_prefect(numbers: Mapping[str, object], index: str) -> None:
    """Leave numbers on the page of this flow run."""
    rows = [{"what": name, "value": str(value)} for name, value in numbers.items()]
    create_table_artifact(key="summary", table=rows, description=f"What this run did to {index}")


@dataclass(frozen=True, slots=True)
class Summary:
    """The outcome of one run of a flow. `version` is the index's after it; `published` says whether it is new."""

    index: str
    version: int | None
    published: bool
    seen: int = 0
    added: int = 0
    changed: int = 0
    unchanged: int = 0
    deleted: int = 0
    rejected: int = 0
    rejected_file: FileRef | None = None
    passages: int = 0
    tokens: int = 0
    bytes: int = 0
    seconds: dict[str, float] = field(default_factory=dict)

    def show_in_prefect(self) -> None:
        """Leave the numbers on the flow run's page."""
        numbers = {name: value for name, value in asdict(self).items() if name not in ("seconds", "rejected_file")}
        numbers |= {f"seconds: {stage}": value for stage, value in self.seconds.items()}
        show_in_prefect(numbers, self.index)


class Stopwatch:
    """Wall seconds of each stage of a run."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure the block as one stage."""
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 3)

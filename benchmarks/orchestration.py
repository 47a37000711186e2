"""What Prefect costs a build: the same build as a flow and by the plain functions of its tasks, in turn.

    python -m benchmarks.orchestration DATA_FOLDER

A tiny encoder makes short work of a shard, so that what is left is orchestration. Builds of few and of many shards tell
what a run costs and what a shard does, whatever it holds. What a build of 50,000 passages works is told by a sample of
SciFact, encoded with the embedded encoder; codebook and centroids are left out, so the share comes out too high.
The sample also tells how many shards 50,000 passages are at the most, as a shard ends with a thousand documents, of a
passage each or more, or with two million characters.
A processor second is one of this process or of Prefect's server, which runs as its child.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from benchmarks.environment import Environment, environment, private_prefect
from benchmarks.report import Figures, print_table
from benchmarks.results import default_output, save

if TYPE_CHECKING:
    from tasks.rows import Source

PASSAGES = 50_000
FEW, MANY = 2, 36  # shards of the builds
DOCUMENTS = 36
UPDATES = 20
SAMPLE = 48  # passages


@dataclass(frozen=True, slots=True)
class Seconds:
    """By the clock, and of processors."""

    wall: float
    processor: float

    def __add__(self, other: Seconds) -> Seconds:
        return Seconds(self.wall + other.wall, self.processor + other.processor)

    def __sub__(self, other: Seconds) -> Seconds:
        return Seconds(self.wall - other.wall, self.processor - other.processor)

    def __mul__(self, times: float) -> Seconds:
        return Seconds(self.wall * times, self.processor * times)


@dataclass(frozen=True, slots=True)
class Orchestration:
    """Medians. start: of a temporary server, for a build that has no other. run: a flow, beside its shards.

    update: one of the progress, of which there is one every `update_every` seconds of encoding.
    shards: the most that 50,000 passages can be. share: what orchestration costs a build of so many, in parts of
    encoding them.
    """

    start: Seconds
    run: Seconds
    shard: Seconds
    update: Seconds
    update_every: float
    passage: Seconds
    shards: int
    share: Seconds
    builds: dict[str, list[Seconds]]
    environment: Environment


def measure_orchestration(data: Path, rounds: int, command: str) -> Orchestration:
    """Build both ways in turn, then encode a sample."""
    from benchmarks import builds
    from flows.sight import EVERY_SECONDS

    started = environment(command)
    start = _timed(builds.reach_prefect)
    timings = _build_in_turn(rounds)
    few, many = (_difference(timings[f"flow {n}"], timings[f"plain {n}"]) for n in (FEW, MANY))
    shard = (many - few) * (1 / (MANY - FEW))
    run = few - shard * FEW
    idle = _timed(lambda: builds.update_progress(0))
    update = (_timed(lambda: builds.update_progress(UPDATES)) - idle) * (1 / UPDATES)
    passage, characters = _passage(data)
    shards = most_shards(PASSAGES, characters)
    work = passage * PASSAGES
    cost = start + run + shard * shards + update * (work.wall / EVERY_SECONDS)
    share = Seconds(cost.wall / work.wall, cost.processor / work.processor)
    return Orchestration(start, run, shard, update, EVERY_SECONDS, passage, shards, share, timings, started)


def _build_in_turn(rounds: int) -> dict[str, list[Seconds]]:
    """The seconds of builds, by way and shards; a first round warms up and does not count."""
    from benchmarks.builds import build_by_flow, build_plainly
    from tasks.rows import Source

    timings: dict[str, list[Seconds]] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "documents.jsonl")
        rows = [{"id": f"{one}", "text": f"The fox number {one} jumps over the lazy dog."} for one in range(DOCUMENTS)]
        path.write_text("\n".join(map(json.dumps, rows)))
        for number in range(rounds + 1):
            for shards in (FEW, MANY):
                for name, build in (("flow", build_by_flow), ("plain", build_plainly)):
                    place = str(Path(folder, f"{name}-{shards}-{number}"))
                    seconds = _built(build, Source(location=str(path)), place, shards)
                    if number:
                        timings.setdefault(f"{name} {shards}", []).append(seconds)
    return timings


def _built(build: Callable[[Source, str], None], source: Source, place: str, shards: int) -> Seconds:
    from tasks import stage_documents

    usual, stage_documents.SHARD_DOCUMENTS = stage_documents.SHARD_DOCUMENTS, DOCUMENTS // shards
    try:
        return _timed(lambda: build(source, place))
    finally:
        stage_documents.SHARD_DOCUMENTS = usual


def _difference(more: list[Seconds], less: list[Seconds]) -> Seconds:
    return _median([a - b for a, b in zip(more, less, strict=True)])


def _median(timings: list[Seconds]) -> Seconds:
    return Seconds(statistics.median(one.wall for one in timings), statistics.median(one.processor for one in timings))


def most_shards(passages: int, characters: float) -> int:
    """How many shards so many passages of so many characters on average can be: each but the last is full."""
    from tasks.stage_documents import SHARD_CHARACTERS, SHARD_DOCUMENTS

    return int(passages / SHARD_DOCUMENTS + passages * characters / SHARD_CHARACTERS) + 1


def _passage(data: Path) -> tuple[Seconds, float]:
    """What it costs to encode one passage of SciFact, and how many characters one has."""
    from benchmarks.builds import first_passages
    from benchmarks.judged import load_collection
    from encoding.encoder import load_encoder
    from encoding.location import EMBEDDED

    encoder = load_encoder(EMBEDDED)
    texts = first_passages(encoder, load_collection(data / "scifact").texts, SAMPLE)
    list(encoder.encode(texts[:8]))
    seconds = _median([_timed(lambda: list(encoder.encode(texts))) * (1 / len(texts)) for _ in range(3)])
    return seconds, sum(map(len, texts)) / len(texts)


def _timed(work: Callable[[], object]) -> Seconds:
    wall, processor = time.perf_counter(), time.process_time() + _server_seconds()
    work()
    return Seconds(time.perf_counter() - wall, time.process_time() + _server_seconds() - processor)


def _server_seconds() -> float:
    """Processor seconds so far of the processes that this one started."""
    children = Path("/proc/self/task").glob("*/children")
    ticks = 0
    for process in {one for listed in children for one in listed.read_text(encoding="utf-8").split()}:
        after_name = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        ticks += int(after_name[11]) + int(after_name[12])  # proc(5): utime and stime, the 14th and 15th field
    return ticks / os.sysconf("SC_CLK_TCK")


def table(measured: Orchestration) -> Figures:
    """The parts, and the share."""
    parts = {
        "start of a temporary server, once": measured.start,
        "run": measured.run,
        "shard": measured.shard,
        f"update of the progress, every {measured.update_every:g} s": measured.update,
        "encoding a passage of SciFact": measured.passage,
    }
    rows = [[name, f"{one.wall:.3f}", f"{one.processor:.3f}"] for name, one in parts.items()]
    share = [f"{100 * part:.2f} %" for part in (measured.share.wall, measured.share.processor)]
    rows.append([f"all of it, in parts of encoding {PASSAGES:,} passages in {measured.shards} shards", *share])
    return Figures("What Prefect costs a build", ["", "seconds by the clock", "processor seconds"], rows)


def main() -> None:
    """Measure, print and keep the result."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.orchestration", description=__doc__)
    parser.add_argument("data", type=Path, help="folder that holds the collection scifact")
    parser.add_argument("--rounds", type=int, default=5, help="how many times each build: %(default)s")
    parser.add_argument("--output", type=Path, default=default_output("orchestration"), help="JSON file of the result")
    arguments = parser.parse_args()
    command = " ".join(["python -m benchmarks.orchestration", *sys.argv[1:]])
    with private_prefect():
        measured = measure_orchestration(arguments.data, arguments.rounds, command)
    save(arguments.output, "orchestration", measured)
    print_table(Console(width=120), table(measured))


if __name__ == "__main__":
    main()

"""Peak memory of a build: the same collection at two sizes, each built in a process of its own.

    python -m benchmarks.memory DATA_FOLDER
    python -m benchmarks.memory DATA_FOLDER --sizes 5000 50000 --encoder tests/parity/golden/colbert-bert

A build streams, so ten times the documents must not need more than 1.2 times the memory. With a tiny encoder it is
the pipeline's memory that is measured, in minutes; with the embedded one the model's batches too, in hours.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from benchmarks.environment import Environment, environment, private_prefect
from benchmarks.report import MEMORY, memory_table, print_table
from benchmarks.results import default_output, save
from encoding.location import EMBEDDED

SIZES = (5_000, 20_000)
COLLECTION = "debdesc"
_BUILD = "build-for-memory"


@dataclass(frozen=True, slots=True)
class Peak:
    """One build. `server_mib` is the peak of Prefect's own server, which runs as a child of the build."""

    documents: int
    tokens: int
    seconds: float
    peak_mib: float
    server_mib: float


@dataclass(frozen=True, slots=True)
class Memory:
    """The builds in the order of their size, and the last one's peak over the first one's."""

    collection: str
    encoder: str
    peaks: list[Peak]
    ratio: float
    environment: Environment


def measure_memory(data: Path, sizes: Sequence[int], encoder: str, command: str) -> Iterator[Memory]:
    """Build the first documents of the collection at each size, each in a fresh process; yields after each.

    A size beyond the collection's takes it again from the start, under other ids.
    """
    started = environment(command)
    peaks: list[Peak] = []
    with tempfile.TemporaryDirectory() as folder:
        corpus = pq.read_table(data / COLLECTION / "corpus.parquet")
        for size in sizes:
            source, index = Path(folder, f"{size}.parquet"), Path(folder, f"index-{size}")
            pq.write_table(_first(corpus, size), source)
            arguments = [sys.executable, "-m", "benchmarks.memory", _BUILD, str(source), str(index), encoder]
            done = subprocess.run(arguments, stdout=subprocess.PIPE, text=True, check=True)
            peaks.append(Peak(**json.loads(done.stdout.splitlines()[-1])))
            yield Memory(COLLECTION, encoder, list(peaks), peaks[-1].peak_mib / peaks[0].peak_mib, started)


def _first(corpus: pa.Table, size: int) -> pa.Table:
    parts: list[pa.Table] = []
    left = size
    while left:
        part = corpus.slice(0, left)
        ids = [f"{one}-{len(parts)}" for one in part["doc_id"].to_pylist()]
        parts.append(part.set_column(part.schema.get_field_index("doc_id"), "doc_id", pa.array(ids)))
        left -= len(part)
    return pa.concat_tables(parts)


def _build(source: Path, index: Path, encoder: str) -> None:
    """Build, and print the peaks as the last line. This is all that the measured process does."""
    with private_prefect():
        from flows.build_index import build_index
        from flows.parameters import BuildParameters
        from tasks.rows import Source

        where = Source(location=str(source), id_column="doc_id")
        summary = build_index(BuildParameters(source=where, index=str(index), encoder=encoder))
        children = Path("/proc/self/task").glob("*/children")
        servers = [int(process) for listed in children for process in listed.read_text().split()]
        peaks = {"peak_mib": _peak_mib("self"), "server_mib": max(map(_peak_mib, servers), default=0.0)}
        built = {"documents": summary.added, "tokens": summary.tokens, "seconds": sum(summary.seconds.values())}
        print(json.dumps(built | peaks))


def _peak_mib(process: int | str) -> float:
    """The most memory that a process held at once.

    Not getrusage's ru_maxrss: a forked process inherits in it the peak of the one that started it.
    """
    status = Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines()
    (line,) = (line for line in status if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


def main() -> None:
    """Measure, print and keep the result; or be the process that is measured."""
    if sys.argv[1:2] == [_BUILD]:
        _build(Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])
        return
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    parser.add_argument("data", type=Path, help="folder that holds the collection debdesc")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="documents of each build: %(default)s")
    parser.add_argument("--encoder", default=EMBEDDED, help="'embedded' or a folder: %(default)s")
    parser.add_argument("--output", type=Path, default=default_output(), help="JSON file to add the result to")
    arguments = parser.parse_args()
    command = " ".join(["python -m benchmarks.memory", *sys.argv[1:]])
    for memory in measure_memory(arguments.data, arguments.sizes, arguments.encoder, command):
        results = save(arguments.output, MEMORY, memory)
        print_table(Console(width=120), memory_table(results[MEMORY]))


if __name__ == "__main__":
    main()

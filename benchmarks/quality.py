"""Quality, bytes, speed and memory of Colonnade on judged collections, beside what it is held against.

    python -m benchmarks.quality DATA_FOLDER [--variants all]

Each collection is built by the real flow and asked all its queries; BM25, the same model's one vector of each passage,
and exact MaxSim on the very same token vectors are measured beside it. With --variants ours every number of bits and
pooling is measured on the way (variants.py), with --variants all ColBERT's codec too, which takes two to six times as
long, the more queries the longer. Results are kept as they come.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from benchmarks.environment import Environment, environment, private_prefect
from benchmarks.memory import SIZES, measure_memory
from benchmarks.report import MEMORY, print_table, tables
from benchmarks.results import Results, default_output, load, save
from encoding.location import EMBEDDED

if TYPE_CHECKING:
    from benchmarks.judged import Quality
    from benchmarks.road import Road, Variants

SETS = ("limit-small", "scifact", "limit-like-5k", "medquad")


@dataclass(frozen=True, slots=True)
class Measurement:
    """All that was measured on one collection. `unanswerable` counts queries without a relevant document."""

    queries: int
    unanswerable: int
    bm25: Quality
    road: Road
    environment: Environment


def measure_collection(folder: Path, command: str, variants: Variants | None) -> Measurement:
    """Measure one collection: the road first, for its timings want a quiet process."""
    # Imported here: these import Prefect, which reads its settings then.
    from benchmarks.bm25 import bm25_scores
    from benchmarks.judged import load_collection, measure, rank
    from benchmarks.road import take_road

    started = environment(command)
    collection = load_collection(folder)
    with tempfile.TemporaryDirectory() as index:
        road = take_road(collection, Path(index) / "index", variants)
    return Measurement(
        queries=len(collection.queries),
        unanswerable=sum(not any(judged.values()) for judged in collection.judgements.values()),
        bm25=measure(collection, rank(bm25_scores(collection), collection.document_ids)),
        road=road,
        environment=started,
    )


def main() -> None:
    """Measure what the command line asks for, print all figures and keep them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=__doc__)
    parser.add_argument("data", type=Path, help="folder of collections")
    parser.add_argument("--sets", default=",".join([*SETS, MEMORY]), help="what to measure, by commas: %(default)s")
    parser.add_argument("--variants", choices=("ours", "all"), help="measure other bits and pooling, or codecs too")
    parser.add_argument("--output", type=Path, default=default_output(), help="JSON file to add the results to")
    arguments = parser.parse_args()
    command = " ".join(["python -m benchmarks.quality", *sys.argv[1:]])
    results: Results = load(arguments.output) if arguments.output.exists() else {}
    console = Console(width=max(160, Console().width))  # the tables are wide, and a log file has no width
    with private_prefect():
        for name in arguments.sets.split(","):
            if name == MEMORY:
                for memory in measure_memory(arguments.data, SIZES, EMBEDDED, command):
                    results = save(arguments.output, name, memory)
            else:
                measured = measure_collection(arguments.data / name, command, arguments.variants)
                results = save(arguments.output, name, measured)
            console.print(f"{name}: measured")
    for figures in tables(results):
        print_table(console, figures)


if __name__ == "__main__":
    main()

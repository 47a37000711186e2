"""Results as tables: in a terminal after a run, and as Markdown by `python -m benchmarks.report RESULT.json`."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.results import Results, load

MEMORY = "memory"
OPENING = "opening"


@dataclass(frozen=True, slots=True)
class Figures:
    """One table: a title, the head of each column, and rows of text."""

    title: str
    head: list[str]
    rows: list[list[str]]


def tables(results: Results) -> list[Figures]:
    """Every table that the results can fill."""
    collections = {name: measured for name, measured in results.items() if name not in (MEMORY, OPENING)}
    memory = [memory_table(results[MEMORY])] if MEMORY in results else []
    memory += opening_table(results[OPENING]) if OPENING in results else []
    if not collections:
        return memory
    varied = {name: measured for name, measured in collections.items() if measured["road"].get("variants")}
    roads = [_quality(collections), _bytes(collections), _stages(collections), _queries(collections)]
    return [*roads, *(_variants(varied) if varied else []), *memory]


def _quality(collections: Results) -> Figures:
    names = {"bm25": "BM25", "single_vector": "single vector", "exact": "exact MaxSim", "colonnade": "Colonnade 4 bits"}
    rows = []
    for name, measured in collections.items():
        found = measured | measured["road"]
        cells = [_pair(found[one]) for one in names]
        rows.append([name, *cells, f"{found['shallow_ndcg_10']:.3f}", f"{found['overlap_10']:.3f}"])
    head = ["collection", *names.values(), "Colonnade, k 10", "top 10 shared with exact"]
    return Figures("nDCG@10 / Recall@100", head, rows)


def _bytes(collections: Results) -> Figures:
    kinds = list(next(iter(collections.values()))["road"]["bytes"]["by_file"])
    rows = []
    for name, measured in collections.items():
        road = measured["road"]
        each = [f"{road['bytes']['by_file'][kind] / road['passages']:,.0f}" for kind in kinds]
        total = [f"{road['bytes']['per_passage']:,.0f}", f"{road['bytes']['per_token']:.1f}"]
        rows.append([name, f"{road['passages']:,}", f"{road['tokens'] / road['passages']:.0f}", *each, *total])
    head = ["collection", "passages", "tokens a passage", *kinds, "all", "bytes a token"]
    return Figures("Bytes a passage", head, rows)


def _stages(collections: Results) -> Figures:
    rows = []
    for name, measured in collections.items():
        road, seconds = measured["road"], measured["road"]["speed"]["seconds"]
        stages = [f"{seconds[stage]:.1f}" for stage in ("load", "encode", "codebook", "centroids", "publish")]
        whole = sum(seconds.values())
        rates = [f"{road['tokens'] / seconds['encode']:,.0f}", f"{road['tokens'] / seconds['centroids']:,.0f}"]
        both = [f"{road['passages'] / whole:,.1f}", f"{road['tokens'] / whole:,.0f}"]
        rows.append([name, f"{road['tokens']:,}", *stages, *rates, *both])
    head = ["collection", "tokens", "load s", "encode s", "codebook s", "centroids s", "publish s"]
    head += ["encode tokens/s", "centroids tokens/s", "build passages/s", "build tokens/s"]
    return Figures("Speed of the build", head, rows)


def _queries(collections: Results) -> Figures:
    rows = []
    for name, measured in collections.items():
        road, speed = measured["road"], measured["road"]["speed"]
        times = [f"{speed[one]:.1f}" for one in ("encode_query_p50_ms", "search_p50_ms", "search_p95_ms")]
        rows.append([name, f"{road['passages']:,}", f"{road['segments']}", f"{road['centroids']:,}", *times])
    head = ["collection", "passages", "segments", "centroids", "encode a query, p50 ms"]
    return Figures("Speed of a query, k 10", [*head, "search p50 ms", "search p95 ms"], rows)


def _variants(collections: Results) -> list[Figures]:
    """One row for each way of answering, one column for each collection; then what each codec loses."""
    baselines = {"bm25": "BM25", "single_vector": "single vector"}
    quality = [
        [name, "", *(_pair((one | one["road"])[key]) for one in collections.values())]
        for key, name in baselines.items()
    ]
    losses = []
    for ways in zip(*(one["road"]["variants"] for one in collections.values()), strict=True):
        name = _variant(ways[0])
        quality.append([name, f"{ways[0]['token_bytes']:,.0f}", *(_pair(way["quality"]) for way in ways)])
        if ways[0]["bits"] is not None and ways[0]["pool_factor"] == 1:
            losses.append([name, *(f"{way['error']:.4f} / {way['overlap_10']:.3f}" for way in ways)])
    head = ["", "bytes a token", *collections]
    return [
        Figures("nDCG@10 / Recall@100 by codec, bits and pooling", head, quality),
        Figures("Relative squared error / share of the ten best passages", ["", *collections], losses),
    ]


def _variant(way: dict[str, Any]) -> str:
    name = {"float32": "exact MaxSim", "direct": "Colonnade", "quantile residual": "ColBERT's codec"}[way["codec"]]
    if way["bits"] is not None:
        name += f", {way['bits']} bit{'s' if way['bits'] > 1 else ''}"
    return name if way["pool_factor"] == 1 else f"{name}, pooled by {way['pool_factor']}"


def _pair(quality: dict[str, float]) -> str:
    return f"{quality['ndcg_10']:.3f} / {quality['recall_100']:.3f}"


def memory_table(memory: dict[str, Any]) -> Figures:
    """Peaks of the builds of different sizes."""
    first, rows = memory["peaks"][0], []
    for peak in memory["peaks"]:
        built = [f"{peak['documents']:,}", f"{peak['tokens']:,}", f"{peak['seconds']:.0f}"]
        peaks = [f"{peak[which]:,.0f}" for which in ("peak_mib", "server_mib")]
        rows.append([*built, *peaks, f"{peak['peak_mib'] / first['peak_mib']:.2f}"])
    head = ["documents", "tokens", "build s", "peak MiB", "Prefect's server MiB", "peak to the first"]
    encoder = memory.get("encoder", "embedded")  # results from before 2026-11-23 do not say
    return Figures(f"Peak memory of a build ({memory['collection']}, encoder {encoder})", head, rows)


def opening_table(opening: dict[str, Any]) -> list[Figures]:
    """What opening an index took, and what adding to one wrote."""
    rows = [
        [
            one["shape"],
            *(f"{one[name]:,}" for name in ("segments", "passages", "bytes", "lists", "manifests_read")),
            *(f"{one[name]:.1f}" for name in ("seconds", "rss_mib", "rss_anonymous_mib")),
        ]
        for one in opening["opened"]
    ]
    head = ["index", "segments", "passages", "bytes", "listings", "manifests read"]
    opened = Figures("Opening an index", [*head, "seconds", "memory MiB", "of it anonymous"], rows)
    rows = []
    for one in opening["appended"]:
        counts = [f"{one[name]:,}" for name in ("index_passages", "index_bytes", "added_passages", "written_bytes")]
        rows.append([*counts, f"{one['written_bytes'] / one['added_passages']:,.0f}", f"{one['manifest_bytes']:,}"])
    head = ["passages before", "bytes before", "passages added", "bytes written", "a passage", "of it the manifest"]
    return [opened, Figures("Adding to an index", head, rows)]


def print_table(console: Console, figures: Figures) -> None:
    """Show a table in a terminal."""
    table = Table(*figures.head, title=figures.title)
    for row in figures.rows:
        table.add_row(*row)
    console.print(table)


def markdown(figures: Figures) -> str:
    """A table as Markdown, figures to the right."""
    lines = [figures.head, ["---", *["---:"] * (len(figures.head) - 1)], *figures.rows]
    return f"## {figures.title}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__)
    parser.add_argument("results", type=Path, help="JSON file that python -m benchmarks.quality wrote")
    for one in tables(load(parser.parse_args().results)):
        print(markdown(one))

"""The comparison with the peers as tables and as a plot of recall against latency.

python -m benchmarks.search_report RESULT.json [PLOT.svg]
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from benchmarks.report import Figures, markdown, print_table
from benchmarks.results import load

if TYPE_CHECKING:
    from benchmarks.search import Comparison


def print_comparison(console: Console, comparison: Comparison) -> None:
    """All tables of one comparison."""
    for figures in comparison_tables(asdict(comparison)):
        print_table(console, figures)


def comparison_tables(comparison: dict[str, Any]) -> list[Figures]:
    """What was built, and how it answers."""
    about = (
        f"{comparison['passages']:,} passages, {comparison['tokens']:,} tokens, "
        f"queries of {comparison['query_tokens']:.0f} tokens, {comparison['threads']} thread(s) an engine"
    )
    return [_outcomes(comparison, about), _built(comparison, about)]


def _outcomes(comparison: dict[str, Any], about: str) -> Figures:
    rows = [
        [
            one["engine"],
            one["point"],
            str(one["queries"]),
            f"{one['p50_ms']:.2f}",
            f"{one['p95_ms']:.2f}",
            f"{one['queries_a_second']:.0f}",
            f"{one['recall_10']:.3f}",
            f"{one['recall_100']:.3f}",
        ]
        for one in comparison["outcomes"]
    ]
    head = ["engine", "point", "queries", "p50 ms", "p95 ms", "queries/s", "recall@10", "recall@100"]
    return Figures(f"Search, top 100: {about}", head, rows)


def _built(comparison: dict[str, Any], about: str) -> Figures:
    million = comparison["tokens"] / 1_000_000
    rows = [
        [
            one["engine"],
            str(one["bits"]),
            f"{one['seconds']:.1f}",
            f"{one['cpu_seconds'] / million:.0f}",
            f"{one['bytes_per_token']:.1f}",
            f"{one['bytes_per_passage']:,.0f}",
            f"{one['resident_bytes'] / 2**20:,.0f}",
            " / ".join(f"{seconds:.3f}" for seconds in one["change_seconds"].values()),
        ]
        for one in comparison["built"]
    ]
    head = [
        "engine", "bits", "build s", "CPU s a million tokens", "bytes a token", "bytes a passage", "RSS MiB, opened",
        "add 1 % first / again / delete 1 %, s",
    ]  # fmt: skip
    return Figures(f"Indexes: {about}", head, rows)


def plot(comparison: dict[str, Any], file: Path) -> None:
    """Recall@10 against the median latency, one mark for each point."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 5))
    for engine in dict.fromkeys(one["engine"] for one in comparison["outcomes"]):
        own = [one for one in comparison["outcomes"] if one["engine"] == engine]
        own.sort(key=lambda one: float(one["p50_ms"]))
        axes.plot([one["p50_ms"] for one in own], [one["recall_10"] for one in own], "o", label=engine)
        for number, one in enumerate(own):  # below and above in turn, as neighbours are nearly as good
            place, raised = (one["p50_ms"], one["recall_10"]), 4 if number % 2 else -9
            axes.annotate(one["point"], place, fontsize=7, xytext=(3, raised), textcoords="offset points")
    axes.margins(x=0.12)  # room for the labels
    axes.set(xscale="log", xlabel="p50 of a query, ms (log)", ylabel="recall@10 against exact MaxSim")
    axes.set_title(f"{comparison['passages']:,} passages, {comparison['threads']} thread(s)")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.tight_layout()
    figure.savefig(file)


def main() -> None:
    """Print the tables of a result file as Markdown, and draw the last comparison in it."""
    results = load(Path(sys.argv[1]))
    for comparison in results.values():
        for figures in comparison_tables(comparison):
            print(markdown(figures))
    if len(sys.argv) > 2:
        plot(list(results.values())[-1], Path(sys.argv[2]))


if __name__ == "__main__":
    main()

"""The quality gate of CI: what a results file must hold.

    python -m benchmarks.check RESULTS.json

Floors are a little under what was measured, so that a broken step fails and noise does not.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from benchmarks.results import load

MOST_LOST = 0.01  # nDCG@10 and recall@100 that compression and candidates may cost against exact MaxSim
FLOORS = {"limit-small": 0.97, "limit-like-5k": 0.80, "scifact": 0.70, "medquad": 0.40}  # nDCG@10


def faults(name: str, measured: dict[str, Any]) -> list[str]:
    """What is wrong with one collection's measurement, as sentences."""
    exact, ours = measured["road"]["exact"], measured["road"]["colonnade"]
    found = [
        f"{name}: {measure} is {ours[measure]:.4f}, more than {MOST_LOST} under exact MaxSim's {exact[measure]:.4f}"
        for measure in ("ndcg_10", "recall_100")
        if ours[measure] < exact[measure] - MOST_LOST
    ]
    if ours["ndcg_10"] < FLOORS[name]:
        found.append(f"{name}: ndcg_10 is {ours['ndcg_10']:.4f}, expected at least {FLOORS[name]}")
    return found


def main() -> None:
    """Check every collection of the file that the command line names."""
    results = load(Path(sys.argv[1]))
    wrong = [fault for name, measured in results.items() if name in FLOORS for fault in faults(name, measured)]
    print("\n".join(wrong) if wrong else f"quality holds: {', '.join(results)}")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()

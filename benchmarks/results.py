"""The JSON file of a day's results: one measurement is added at a time, so that nothing is lost when a run stops."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Results = dict[str, Any]  # as JSON: name of a collection, or "memory" or "opening", to its measurement


def default_output(kind: str = "quality") -> Path:
    """The file of today beside this module."""
    return Path(__file__).parent / "results" / f"{kind}-{datetime.now(UTC):%Y-%m-%d}.json"


def load(path: Path) -> Results:
    """All measurements of a file."""
    results: Results = json.loads(path.read_text(encoding="utf-8"))
    return results


def save(path: Path, name: str, measurement: DataclassInstance) -> Results:
    """Add a measurement to a file, or replace the one of that name, and return all of them."""
    results = load(path) if path.exists() else {}
    results[name] = asdict(measurement)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return results

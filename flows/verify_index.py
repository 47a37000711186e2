"""A check of an index, for a schedule: the run fails when the index has a fault, and lists the first hundred."""

from __future__ import annotations

from dataclasses import asdict

from prefect import flow

from flows.parameters import VerifyParameters
from flows.sight import show_rows
from index_format.errors import IndexCorrupt
from tasks.verify_index import verify_index_task


@flow(name="verify-index", persist_result=False, result_serializer="json")
def verify_index(parameters: VerifyParameters) -> None:
    """Check every rule of the format. Raises IndexCorrupt when one does not hold."""
    faults = verify_index_task(parameters.index, parameters.version, all_versions=parameters.all_versions)
    if faults:
        show_rows("faults", [asdict(fault) for fault in faults], f"{len(faults)} faults of {parameters.index}")
        first = faults[0]
        raise IndexCorrupt(f"{parameters.index}: {len(faults)} faults. {first.file}: {first.problem}. {first.repair}")

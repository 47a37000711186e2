"""An index read in full and checked against every rule of its format."""

from __future__ import annotations

from index_format.store import open_store
from index_format.verify import Fault, verify, wanted_versions
from tasks.prefect_task import as_task


def verify_index(address: str, version: int | None, *, all_versions: bool) -> list[Fault]:
    """The faults of one version, the current one by default, or of all."""
    store = open_store(address)
    return list(verify(store, wanted_versions(store, version, all_versions=all_versions)))


verify_index_task = as_task(verify_index, "verify index")

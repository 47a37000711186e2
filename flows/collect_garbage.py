"""Old versions, and files that nothing needs, out of the store."""

from __future__ import annotations

from prefect import flow

from flows.parameters import CollectParameters
from flows.sight import show_numbers
from index_format.garbage import Garbage
from index_format.history import Retention
from tasks.upkeep import collect_task


@flow(name="collect-garbage", persist_result=False, result_serializer="json")
def collect_garbage(parameters: CollectParameters) -> Garbage:
    """Find what nothing needs, and delete it if told to. Run it beside anything else, at any time."""
    retention = Retention(parameters.keep_versions, parameters.keep_days)
    found = collect_task(parameters.index, retention, parameters.delete)
    numbers = {"objects": len(found.sizes), "versions": len(found.versions), "bytes": found.bytes}
    show_numbers(numbers | {"deleted": parameters.delete}, parameters.index)
    return found

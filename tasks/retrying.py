"""When a task is worth running again: only when the store failed, never when the input is wrong."""

from __future__ import annotations

from typing import Any

from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import Task

from index_format.errors import StorageError


def _storage_failed(_task: Task[Any, Any], _run: TaskRun, state: State[Any]) -> bool:
    error = state.data
    return isinstance(error, StorageError) and not error.refused


RETRY_STORAGE: dict[str, Any] = {
    "retries": 3,
    "retry_delay_seconds": [1, 5, 20],
    "retry_condition_fn": _storage_failed,
}

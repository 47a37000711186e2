"""How a plain function becomes a Prefect task; the same for every step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import Task

from index_format.errors import StorageError

P = ParamSpec("P")
R = TypeVar("R")

_RETRY_AFTER_SECONDS: list[float] = [1, 5, 20]


def as_task(function: Callable[P, R], name: str) -> Task[P, R]:
    """The task of a step.

    It runs again only when the store failed, never when the input is wrong. Prefect keeps no result of it:
    what is finished is known from our own objects, which outlive a lost Prefect database.
    """
    return task(
        name=name,
        cache_policy=NO_CACHE,
        persist_result=False,
        retries=len(_RETRY_AFTER_SECONDS),
        retry_delay_seconds=_RETRY_AFTER_SECONDS,
        retry_condition_fn=_store_failed,
    )(function)


def _store_failed(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    error = state.data  # Prefect asks with the exception itself, before there is a result
    return isinstance(error, StorageError) and not error.refused

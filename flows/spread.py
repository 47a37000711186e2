"""Where shards are encoded, by one setting: in this process, in several, on a Prefect work pool, or on Ray.

Every way runs the same task on the same shards, and what is finished is known from receipts in the store. So a
worker that is killed costs the shard that it had in hand, and whoever comes next goes on from there.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

from prefect import get_run_logger, unmapped
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.futures import PrefectFuture
from prefect.states import Crashed
from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner, ThreadPoolTaskRunner

from index_format import keys
from index_format.errors import InputError
from index_format.index import Index
from index_format.segment import EncodedSegment
from tasks import progress
from tasks.device import release_gpu
from tasks.encode_shard import Recipe, encode_shard_task
from tasks.stage_documents import Shard
from tasks.work_list import write_work_list

SETTING = "COLONNADE_ENCODE_ON"
DEPLOYMENT = "encode-shards/workers"
PATIENCE_SECONDS = 300.0  # without a finished shard, until a run counts as dead; a shard takes seconds to minutes
_LOOK_SECONDS = 2.0
_ROUNDS = 3

# One worker thread: an encoder uses all cores, or a whole GPU, by itself.
ONE_THREAD: TaskRunner[PrefectFuture[Any]] = ThreadPoolTaskRunner(max_workers=1)  # type: ignore[assignment]


@dataclass(frozen=True, slots=True)
class Place:
    """Where to encode. `workers`: how many at once; 0 where the engine decides. `address`: of a Ray cluster."""

    kind: str
    workers: int = 0
    address: str | None = None

    @staticmethod
    def of(setting: str) -> Place:
        """Read the setting. Raises InputError."""
        if setting == "here":
            return Place("here")
        if match := re.fullmatch(r"(processes|pool):([1-9][0-9]{0,3})", setting):
            return Place(match[1], int(match[2]))
        if match := re.fullmatch(r"ray(?::(.+))?", setting):
            return Place("ray", address=match[1])
        raise InputError(
            f"{SETTING}: expected here, processes:N, pool:N, ray or ray:ADDRESS, got {setting!r}. "
            "N is how many encode at once."
        )


def encode_shards(shards: Sequence[Shard], recipe: Recipe) -> list[EncodedSegment]:
    """The segments of shards, in their order, encoded where the setting says."""
    place = Place.of(os.environ.get(SETTING, "here"))
    progress.report("encode", total=sum(shard.characters for shard in shards))
    if place.kind == "pool":
        _encode_on_pool(shards, recipe, place.workers)
    elif place.kind != "here" and (segments := _encode_by_runner(shards, recipe, place)) is not None:
        return segments
    try:
        # After others, this finds the receipts, checks them, and encodes what is missing after all.
        return encode_shard_task.map(shards, unmapped(recipe)).result()
    finally:
        release_gpu()


def _encode_by_runner(shards: Sequence[Shard], recipe: Recipe, place: Place) -> list[EncodedSegment] | None:
    """Encode in processes of this machine or on Ray. None when a process was killed each time."""
    arguments = {"shard": list(shards), "recipe": unmapped(recipe)}
    for _ in range(_ROUNDS):
        try:
            with _runner(place) as runner:
                # Prefect's annotation of a runner asks for tasks that may be coroutines.
                return _collect(runner.map(cast("Any", encode_shard_task), arguments), shards)
        except BrokenProcessPool:
            # The pool ends with any of its processes. What was finished has its receipt.
            get_run_logger().warning("A process that encoded was killed. Its shard is encoded again.")
    return None


def _collect(futures: Sequence[PrefectFuture[Any]], shards: Sequence[Shard]) -> list[EncodedSegment]:
    segments = []
    for future, shard in zip(futures, shards, strict=True):
        segments.append(cast("EncodedSegment", future.result()))
        progress.report("encode", advance=shard.characters)  # the other process told nobody
    return segments


@contextmanager
def _runner(place: Place) -> Iterator[TaskRunner[Any]]:
    if place.kind == "processes":
        with ProcessPoolTaskRunner(max_workers=place.workers) as runner:
            yield runner
        return
    try:
        from prefect_ray import RayTaskRunner
    except ImportError as error:
        raise InputError(f"{SETTING} names Ray, which is not installed: pip install 'colonnade[ray]'.") from error
    with RayTaskRunner(address=place.address) as runner:
        yield runner


def _encode_on_pool(shards: Sequence[Shard], recipe: Recipe, runs: int) -> None:
    """Let the workers of the pool encode shards, in so many flow runs; again for those of runs that died."""
    index = Index.at(recipe.address)
    run_id = keys.run_of(shards[0].file.key)
    for attempt in range(_ROUNDS):
        open_shards = _unfinished(index, shards, recipe)
        if not open_shards:
            return
        groups = [group for at in range(runs) if (group := open_shards[at::runs])]
        started = []
        for number, group in enumerate(groups):
            work = write_work_list(index, run_id, attempt * runs + number, recipe, group)
            started.append(_Run(_start(recipe.address, work), group, time.monotonic()))
        _wait(index, recipe, started)


def _start(address: str, work: str) -> FlowRun:
    parameters = {"parameters": {"index": address, "work": work}}
    try:
        # Not as a subflow: what it has done is told by receipts, not by its state.
        return cast("FlowRun", run_deployment(DEPLOYMENT, parameters=parameters, timeout=0, as_subflow=False))
    except ObjectNotFound as error:
        raise InputError(
            f"{SETTING} names a pool, but this Prefect server has no deployment {DEPLOYMENT!r}. "
            "Set PREFECT_API_URL to the server that has it, or make it there with: prefect deploy --all"
        ) from error


@dataclass
class _Run:
    """A flow run, the shards it was given, and when one of them was last seen to be finished."""

    flow_run: FlowRun
    shards: Sequence[Shard]
    moved_at: float
    open: int = 0


def _wait(index: Index, recipe: Recipe, runs: list[_Run]) -> None:
    """Return when every run is over, finished or dead."""
    for run in runs:
        run.open = len(run.shards)
    with get_client(sync_client=True) as client:
        while runs:
            time.sleep(_LOOK_SECONDS)
            finished = set(index.store.list(keys.RECEIPTS))
            for run in list(runs):
                left = [one for one in run.shards if keys.receipt(recipe.work_key(one)) not in finished]
                state = client.read_flow_run(run.flow_run.id).state
                assert state is not None
                if len(left) < run.open or state.is_scheduled():
                    run.open, run.moved_at = len(left), time.monotonic()
                # Pending too: a worker that is killed between taking a run and starting it leaves it so for ever.
                taken = state.is_pending() or state.is_running()
                dead = taken and time.monotonic() - run.moved_at > PATIENCE_SECONDS
                if dead and left:
                    message = f"No shard was finished for {PATIENCE_SECONDS:.0f} seconds: given to others."
                    client.set_flow_run_state(run.flow_run.id, Crashed(message=message), force=True)
                    get_run_logger().warning("%s: %s", run.flow_run.name, message)
                if dead or state.is_final() or not left:
                    runs.remove(run)


def _unfinished(index: Index, shards: Sequence[Shard], recipe: Recipe) -> list[Shard]:
    """The shards without a receipt; whether a receipt is good is seen when it is used."""
    finished = set(index.store.list(keys.RECEIPTS))
    return [shard for shard in shards if keys.receipt(recipe.work_key(shard)) not in finished]

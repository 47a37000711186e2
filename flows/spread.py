"""Where shards are encoded, by one setting: in this process, in several, on a Prefect work pool, or on Ray.

Every way runs the same task on the same shards, and what is finished is known from receipts in the store. So a
worker that is killed costs the shard that it had in hand, and whoever comes next goes on from there.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

from prefect import get_run_logger, unmapped
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, State
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
from tasks.device import begin_encoder, gpu_kept
from tasks.encode_shard import Recipe, encode_shard_task
from tasks.stage_documents import Shard
from tasks.work_list import write_work_list

SETTING = "COLONNADE_ENCODE_ON"
DEPLOYMENT = "encode-shards/workers"
PATIENCE_SECONDS = 300.0  # without a finished shard, until a run counts as dead; a shard takes seconds to minutes
_LOOK_SECONDS = 2.0
_REMIND_SECONDS = 60.0
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
    if not shards:
        return []
    progress.report("encode", total=_characters(shards))
    if place.kind == "pool":
        _encode_on_pool(shards, recipe, place.workers)
    elif place.kind != "here" and (segments := _encode_by_runner(shards, recipe, place)) is not None:
        return segments
    with gpu_kept():
        # After others, this finds the receipts, checks them, and encodes what is missing after all.
        return encode_shard_task.map(shards, unmapped(recipe)).result()


def _encode_by_runner(shards: Sequence[Shard], recipe: Recipe, place: Place) -> list[EncodedSegment] | None:
    """Encode in processes of this machine or on Ray. None when a process was killed each time."""
    arguments = {"shard": list(shards), "recipe": unmapped(recipe)}
    for _ in range(_ROUNDS):
        try:
            with _runner(place) as runner:
                # Prefect's annotation of a runner asks for tasks that may be coroutines.
                return _collect(runner.map(cast("Any", encode_shard_task), arguments), shards)
        except _broken():
            # A pool ends with any of its processes, Ray tries a task four times. What was finished has its receipt.
            get_run_logger().warning("A process that encoded was killed. Its shard is encoded again.")
    return None


def _broken() -> tuple[type[Exception], ...]:
    """What a runner raises when a process that encoded is gone. Ray is there only where it was imported."""
    ray = sys.modules.get("ray")
    return (BrokenProcessPool,) if ray is None else (BrokenProcessPool, ray.exceptions.RayError)


def _collect(futures: Sequence[PrefectFuture[Any]], shards: Sequence[Shard]) -> list[EncodedSegment]:
    segments = []
    for future, shard in zip(futures, shards, strict=True):
        segments.append(cast("EncodedSegment", future.result()))
        progress.report("encode", advance=shard.characters)  # the other process told nobody
    return segments


@contextmanager
def _runner(place: Place) -> Iterator[TaskRunner[Any]]:
    if place.kind == "processes":
        workers = place.workers
        with ProcessPoolTaskRunner(workers, initializer=begin_encoder, initargs=(workers,)) as runner:
            yield runner
        return
    try:
        import ray
        from prefect_ray import RayTaskRunner
        from prefect_ray.context import remote_options
    except ImportError as error:
        raise InputError(f"{SETTING} names Ray, which is not installed: pip install 'colonnade[ray]'.") from error
    with RayTaskRunner(address=place.address) as runner:
        has_gpus = bool(ray.cluster_resources().get("GPU"))
        with remote_options(num_gpus=int(has_gpus)):
            yield runner


def _encode_on_pool(shards: Sequence[Shard], recipe: Recipe, runs: int) -> None:
    """Let the workers of the pool encode shards, in so many flow runs; again for those of runs that died."""
    index = Index.at(recipe.address)
    run_id = keys.run_of(shards[0].file.key)
    told = 0
    for attempt in range(_ROUNDS):
        open_shards = _unfinished(index, shards, recipe)
        if not open_shards:
            break
        groups = [group for at in range(runs) if (group := open_shards[at::runs])]
        started = []
        for number, group in enumerate(groups):
            work = write_work_list(index, run_id, attempt * runs + number, recipe, group)
            started.append(_Run(_start(recipe.address, work), group, time.monotonic()))
        _wait(index, recipe, list(started))
        told += sum(run.told for run in started)
    progress.report("encode", advance=-told)  # each shard is told of again when its receipt is checked


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
    """A flow run, the shards it was given that are not finished, and when it was last seen to get on."""

    flow_run: FlowRun
    open: Sequence[Shard]
    moved_at: float
    told: int = 0  # characters of finished shards

    def look(self, state: State[Any], finished: set[str], recipe: Recipe) -> None:
        """See which shards are finished. A run that nobody has taken yet cannot get on, and need not."""
        left = [one for one in self.open if keys.receipt(recipe.work_key(one)) not in finished]
        if len(left) < len(self.open) or state.is_scheduled():
            self.moved_at = time.monotonic()
        done = _characters(self.open) - _characters(left)
        progress.report("encode", advance=done)
        self.open, self.told = left, self.told + done

    @property
    def stuck(self) -> bool:
        return time.monotonic() - self.moved_at > PATIENCE_SECONDS


def _wait(index: Index, recipe: Recipe, runs: list[_Run]) -> None:
    """Return when every run is over, finished or dead."""
    reminded_at = time.monotonic()
    with get_client(sync_client=True) as client:
        while runs:
            time.sleep(_LOOK_SECONDS)
            finished = set(index.store.list(keys.RECEIPTS))
            waiting = 0
            for run in list(runs):
                state = client.read_flow_run(run.flow_run.id).state
                assert state is not None
                run.look(state, finished, recipe)
                waiting += state.is_scheduled()
                # Whatever else it is: a worker that is killed leaves a run pending, running or cancelling for ever.
                dead = run.stuck and not state.is_final()
                if dead and run.open:
                    message = f"No shard was finished for {PATIENCE_SECONDS:.0f} seconds: given to others."
                    client.set_flow_run_state(run.flow_run.id, Crashed(message=message), force=True)
                    get_run_logger().warning("%s: %s", run.flow_run.name, message)
                if dead or state.is_final() or not run.open:
                    runs.remove(run)
            if waiting and time.monotonic() - reminded_at > _REMIND_SECONDS:
                reminded_at = time.monotonic()
                get_run_logger().warning(
                    "%d of the runs that encode wait for a worker with a free place. Start one: "
                    "prefect worker start --pool colonnade --work-queue encode",
                    waiting,
                )


def _characters(shards: Sequence[Shard]) -> int:
    return sum(shard.characters for shard in shards)


def _unfinished(index: Index, shards: Sequence[Shard], recipe: Recipe) -> list[Shard]:
    """The shards without a receipt; whether a receipt is good is seen when it is used."""
    finished = set(index.store.list(keys.RECEIPTS))
    return [shard for shard in shards if keys.receipt(recipe.work_key(shard)) not in finished]

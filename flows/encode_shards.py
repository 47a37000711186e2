"""What a worker does for a build that runs elsewhere: some shards of it, one after another."""

from __future__ import annotations

from prefect import flow

from flows.parameters import EncodeParameters
from flows.spread import ONE_THREAD
from index_format.index import Index
from tasks.device import gpu_kept
from tasks.encode_shard import encode_shard_task
from tasks.work_list import read_work_list


@flow(name="encode-shards", task_runner=ONE_THREAD, persist_result=False, result_serializer="json")
def encode_shards(parameters: EncodeParameters) -> int:
    """Encode the shards of a work list. Returns how many; what became of them is told by their receipts."""
    work = read_work_list(Index.at(parameters.index), parameters.work)
    with gpu_kept():
        for shard in work.shards:
            encode_shard_task(shard, work.recipe)
    return len(work.shards)

"""Shards that a worker elsewhere is to encode, as an object in the store: a flow run is given its key alone."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from index_format import keys
from index_format.errors import NOT_DECODED, IndexCorrupt
from index_format.index import Index
from tasks.encode_shard import Recipe
from tasks.stage_documents import Shard


class WorkList(msgspec.Struct, frozen=True, kw_only=True):
    """Shards, and how to encode them."""

    recipe: Recipe
    shards: list[Shard]


def write_work_list(index: Index, run_id: str, number: int, recipe: Recipe, shards: Sequence[Shard]) -> str:
    """Write a list under a fresh key and return the key."""
    key = keys.work_list(run_id, number)
    index.store.create(key, msgspec.json.encode(WorkList(recipe=recipe, shards=list(shards))))
    return key


def read_work_list(index: Index, key: str) -> WorkList:
    """The list under a key. Raises ObjectMissing when the run that wrote it is over."""
    try:
        return msgspec.json.decode(index.store.get(key), type=WorkList)
    except NOT_DECODED as error:
        raise IndexCorrupt(f"{index.address}/{key}: not a list of shards ({error}). Run the build again.") from error

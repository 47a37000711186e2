"""What a run leaves for another: receipts of finished work and lists of shards, whatever became of their bytes."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from index_format import keys
from index_format.errors import IndexCorrupt
from index_format.index import Index
from index_format.segment import EncodedSegment
from index_format.store import MemoryStore
from tasks.encode_shard import Recipe, read_receipt
from tasks.stage_documents import Shard
from tasks.work_list import read_work_list, write_work_list
from tests.strategies import make_recipe, write_documents

WORK = "ab" * 32


@pytest.fixture
def index(tmp_path: Path) -> Index:
    return Index(MemoryStore(), tmp_path)


def put(index: Index, key: str, data: bytes) -> None:
    index.store.delete(key)
    index.store.create(key, data)


def test_a_receipt_with_a_flipped_bit_counts_for_nothing(index: Index) -> None:
    """In any of its bytes: it makes room, and the work is done again."""
    segment = write_documents(index, make_recipe(index), {"a": "harbour"})
    finished = EncodedSegment(**{name: getattr(segment, name) for name in EncodedSegment.__struct_fields__})
    data = msgspec.json.encode(finished)
    put(index, keys.receipt(WORK), data)
    assert read_receipt(index, WORK) == finished
    for at in range(len(data)):
        put(index, keys.receipt(WORK), data[:at] + bytes([data[at] ^ 0x80]) + data[at + 1 :])
        assert read_receipt(index, WORK) is None
        assert index.store.list(keys.RECEIPTS) == []


def test_a_damaged_list_of_shards_is_told_by_its_key(index: Index) -> None:
    """Bytes that are no JSON, no text, or no list of shards."""
    made = make_recipe(index)
    recipe = Recipe(
        address="here", encoder_name="words", encoder=made.encoder, codec=made.codec_record, chunking=made.chunking
    )
    shard = Shard(file=made.codec_record.file, content="c", documents=1, characters=7)
    key = write_work_list(index, keys.new_id(), 0, recipe, [shard])
    assert read_work_list(index, key).shards == [shard]
    whole = index.store.get(key)
    for damaged in (whole[:-1], b"[]", whole.replace(b"words", b"w\xffrds", 1)):
        put(index, key, damaged)
        with pytest.raises(IndexCorrupt, match=key):
            read_work_list(index, key)

"""The flows that look after an index, and what a build does when one of them changes the index under it."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest
from prefect.client.schemas.objects import StateType
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from flows import indexing, turns
from flows.build_index import build_index
from flows.collect_garbage import collect_garbage
from flows.compact_index import compact_index
from flows.parameters import BuildParameters, CollectParameters, CompactParameters
from index_format import change, keys
from index_format.change import Origin
from index_format.codebook import Codebook
from index_format.index import Index
from index_format.manifest import CodebookRecord
from index_format.segment import write_codebook
from tasks import encode_shard
from tasks.rows import Source
from tests.prefect_server import free_port
from tests.strategies import live_texts

pytestmark = pytest.mark.usefixtures("prefect_here")


def build(tmp_path: Path, **texts: str) -> None:
    path = tmp_path / f"{'-'.join(texts)}.jsonl"
    path.write_text("\n".join(json.dumps({"id": name, "text": text}) for name, text in texts.items()))
    build_index(BuildParameters(source=Source(location=str(path)), index=str(tmp_path / "index")))


def test_compacting_and_collecting_leave_one_segment_and_the_last_version(tmp_path: Path) -> None:
    """Two builds, joined; a dry run first, which changes nothing."""
    build(tmp_path, a="Bees make honey.")
    build(tmp_path, b="Cats sleep all day.")
    place = str(tmp_path / "index")
    done = compact_index(CompactParameters(index=place, alike=2))
    assert (done.segments_before, done.segments_after, done.version) == (2, 1, 3)
    settings = {"index": place, "keep_versions": 1, "keep_days": 0}
    dry = collect_garbage(CollectParameters(**settings))
    assert dry.versions == [1, 2]
    assert Index.at(place).versions() == [1, 2, 3]
    assert collect_garbage(CollectParameters(**settings, delete=True)).sizes == dry.sizes
    assert Index.at(place).versions() == [3, 4]
    assert live_texts(Index.at(place)) == {"a": "Bees make honey.", "b": "Cats sleep all day."}


def test_a_codebook_that_is_replaced_under_a_build_costs_it_the_centroids_alone(tmp_path: Path, monkeypatch) -> None:
    """Codes are direct, so nothing is encoded again."""
    build(tmp_path, a="Bees make honey.")
    index = Index.at(tmp_path / "index")
    publish, codebooks, encoded = indexing.publish_task, [], []

    def replace_then_publish(*arguments: object) -> object:
        if not codebooks:
            codebooks.append(_another_codebook(index))
            change.replace_codebook(index, index.current().codebook.id, codebooks[0], Origin("codebook"))
        return publish(*arguments)

    write = encode_shard.write_segment
    monkeypatch.setattr(encode_shard, "write_segment", lambda *given: encoded.append(1) or write(*given))
    monkeypatch.setattr(indexing, "publish_task", replace_then_publish)
    build(tmp_path, b="Cats sleep all day.")
    assert encoded == [1]
    head = index.current()
    assert (head.version, head.codebook) == (3, codebooks[0])
    assert set(live_texts(index)) == {"a", "b"}
    for segment in index.segments(head):
        assert set(segment.centroids.ids.tolist()) == {0}


def test_finished_work_from_before_the_horizon_is_done_again(tmp_path: Path, monkeypatch) -> None:
    """A run that was killed long ago left a receipt; what it wrote may be collected at any moment."""
    build(tmp_path, a="Bees make honey.")
    place = tmp_path / "index"

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(indexing, "publish_task", killed)
        with pytest.raises(KeyboardInterrupt):
            build(tmp_path, b="Cats sleep all day.")
    (receipt,) = Index.at(place).store.list(keys.RECEIPTS)
    index = Index.at(place)
    raise_horizon(index)
    build(tmp_path, b="Cats sleep all day.")
    assert set(live_texts(index)) == {"a", "b"}
    assert receipt not in index.store.list(keys.RECEIPTS)


def test_a_compaction_stands_aside_while_another_shows_signs_of_life(tmp_path: Path, monkeypatch) -> None:
    """It says so, changes nothing, and is no failure."""
    build(tmp_path, a="Bees make honey.")
    build(tmp_path, b="Cats sleep all day.")
    monkeypatch.setattr(turns, "BEAT_SECONDS", 0.2)
    place = Index.at(tmp_path / "index").address
    with turns.turn("compact", place) as alone:
        assert alone
        state = compact_index(CompactParameters(index=place, alike=2), return_state=True)
    assert (state.type, state.name) == (StateType.COMPLETED, "Stood aside")
    assert "another compaction is at work" in str(state.message)
    done = state.result()
    assert (done.version, done.segments_before, done.segments_after) == (2, 2, 2)
    assert compact_index(CompactParameters(index=place, alike=2)).segments_after == 1


@pytest.mark.parametrize(
    ("one", "other", "taken"),
    [
        ("index", "./index/", True),
        ("index", "other/../index", True),
        ("index", "link", True),
        ("link/segments", "other/../index/segments", True),
        ("index", "other", False),
        ("s3://bucket/index", "s3://bucket/index/", True),
        ("s3://bucket/index", "s3://bucket//index", False),
    ],
)
def test_an_index_has_one_turn_however_its_address_is_spelled(
    tmp_path: Path, monkeypatch, one: str, other: str, taken: bool
) -> None:
    """With a slash at its end, by way of another folder, by a link. Two slashes are another key of a bucket."""
    (tmp_path / "index").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "link").symlink_to("index")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(turns, "BEAT_SECONDS", 0.2)
    with turns.turn("compact", Index.at(one).address), turns.turn("compact", Index.at(other).address) as alone:
        assert alone is not taken


def test_a_turn_that_was_left_behind_is_the_next_runs(tmp_path: Path, monkeypatch) -> None:
    """A run that was killed shows no sign of life; the next one waits a minute for one, here a second."""
    build(tmp_path, a="Bees make honey.")
    monkeypatch.setattr(turns, "PATIENCE_SECONDS", 1.0)
    place = Index.at(tmp_path / "index").address
    with turns.turn("compact", place):
        assert compact_index(CompactParameters(index=place)).version == 1
        with turns.turn("compact", place) as alone:
            assert alone


def test_a_run_that_has_its_turn_does_not_need_the_server_any_more(tmp_path: Path, monkeypatch) -> None:
    """One that dies under it fails no work, nor does one that cannot be asked at all."""
    monkeypatch.setattr(turns, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(turns, "get_run_logger", lambda: logging.getLogger("turns"))
    gone = temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{free_port()}/api", PREFECT_CLIENT_MAX_RETRIES: 0})
    turn = turns.turn("compact", str(tmp_path))
    assert turn.__enter__()
    with gone:
        time.sleep(0.2)
        turn.__exit__(None, None, None)
        with turns.turn("compact", str(tmp_path)) as alone:
            assert alone


def raise_horizon(index: Index) -> None:
    """As a collector does that found all that was written so far too old."""
    time.sleep(0.002)
    now = time.time_ns() // 1_000_000
    index.change(
        lambda base: msgspec.structs.replace(
            change.next_version(base, change.commit_record(Origin("gc")), base.segments), horizon=now
        )
    )
    time.sleep(0.002)


def _another_codebook(index: Index) -> CodebookRecord:
    """One centroid: every id is 0."""
    book_id = keys.new_id()
    base = index.current()
    file = write_codebook(index.store, book_id, Codebook.of(np.zeros((1, base.encoder.dim), np.float32)))
    return msgspec.structs.replace(base.codebook, id=book_id, centroids=1, file=file)

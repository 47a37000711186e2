"""Staging: which documents go on to be encoded, which are set aside and why, and how they are cut into shards."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from index_format import keys, schema
from index_format.errors import SourceError
from index_format.index import Index
from tasks import progress
from tasks.rows import Source
from tasks.stage_documents import (
    MAX_ID_CHARACTERS,
    SHARD_CHARACTERS,
    SHARD_DOCUMENTS,
    Shard,
    StagedDocuments,
    content_hash,
    remove_staged,
    stage_documents,
)
from tasks.tables import BATCH_ROWS
from tests.strategies import add, delete, make_recipe

Row = dict[str, object]
Stage = Callable[[list[Row]], StagedDocuments]


@pytest.fixture
def index(tmp_path: Path) -> Index:
    return Index.at(tmp_path / "index")


@pytest.fixture
def stage(tmp_path: Path, index: Index) -> Stage:
    """Stage rows, through a Parquet file, against what the index holds."""

    def run(rows: list[Row]) -> StagedDocuments:
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
        return stage_documents(
            Source(location=str(tmp_path / "rows.parquet")), index.address, keys.new_id(), index.head()
        )

    return run


def _staged(index: Index, shards: list[Shard]) -> list[Row]:
    """All documents of some shards, in order."""
    return [row for shard in shards for row in pq.read_table(index.files.path(shard.file)).to_pylist()]


def _reasons(index: Index, staged: StagedDocuments) -> list[tuple[int, str | None, str]]:
    """Row, id and reason of everything that was set aside."""
    if staged.rejected_file is None:
        return []
    table = pq.read_table(index.files.path(staged.rejected_file))
    assert table.schema.equals(schema.REJECTED)
    return [(row["row"], row["id"], row["reason"]) for row in table.to_pylist()]


def test_good_documents_are_staged_whole(index: Index, stage: Stage) -> None:
    """Id, title, text and metadata, with the hash of all but the id, as the format has them."""
    staged = stage(
        [{"id": "a", "title": "T", "text": "x", "year": 1}, {"id": "b", "title": None, "text": "y", "year": 2}]
    )
    assert (staged.seen, staged.unchanged, staged.rejected, staged.rejected_file) == (2, 0, 0, None)
    assert [(shard.documents, shard.characters) for shard in staged.shards] == [(2, 2)]
    assert _staged(index, staged.shards) == [
        {
            "id": "a",
            "content_hash": content_hash("T", "x", {"year": 1}),
            "title": "T",
            "text": "x",
            "metadata": {"year": 1},
        },
        {
            "id": "b",
            "content_hash": content_hash(None, "y", {"year": 2}),
            "title": None,
            "text": "y",
            "metadata": {"year": 2},
        },
    ]


def test_bad_rows_are_set_aside_with_their_reasons(index: Index, stage: Stage) -> None:
    """Each with its row, counted, in a report; the rest goes on."""
    long_id = "x" * (MAX_ID_CHARACTERS + 1)
    staged = stage(
        [
            {"id": "a", "text": "first"},
            {"id": None, "text": "no id"},
            {"id": " \t", "text": "blank id"},
            {"id": long_id, "text": "long id"},
            {"id": "b", "text": None},
            {"id": "c", "text": " \n\u2003"},
            {"id": "a", "text": "second"},
            {"id": "x" * MAX_ID_CHARACTERS, "text": "longest id"},
        ]
    )
    assert _reasons(index, staged) == [
        (2, None, "the id is missing"),
        (3, " \t", "the id is missing"),
        (4, long_id, "the id has 513 characters, at most 512 are allowed"),
        (5, "b", "the text is empty"),
        (6, "c", "the text is empty"),
        (7, "a", "the id came before in this source; the first row with it is indexed"),
    ]
    assert (staged.seen, staged.rejected) == (8, 6)
    assert [row["text"] for row in _staged(index, staged.shards)] == ["first", "longest id"]


@pytest.mark.parametrize("odd", ["infinity", "-infinity", "10000-01-01", "0044-03-15 (BC)"])
def test_a_date_that_python_has_not_is_set_aside(index: Index, tmp_path: Path, odd: str) -> None:
    """By its column; the rows around it are staged, and a later row with its id is."""
    source = tmp_path / "rows.csv"
    source.write_text(f"id,text,year,when\na,x,1,2020-01-01\nb,y,2,{odd}\nb,z,3,0001-01-01\nc,z,4,9999-12-31\n")
    staged = stage_documents(Source(location=str(source)), index.address, keys.new_id(), None)
    assert _reasons(index, staged) == [
        (2, "b", "column 'when' has a date or time out of range, expected years from 1 to 9999")
    ]
    assert [(row["id"], row["text"]) for row in _staged(index, staged.shards)] == [("a", "x"), ("b", "z"), ("c", "z")]


@pytest.mark.parametrize(
    "odd",
    [
        pa.array([0, 2**62], pa.timestamp("us")),
        pa.array([0, 2**62], pa.timestamp("us", tz="Asia/Tokyo")),
        pa.array([0, 2**31 - 1], pa.date32()),
        pa.array([[0], [None, 2**62]], pa.list_(pa.timestamp("us"))),
        pa.array([{"at": 0}, {"at": 2**62}], pa.struct({"at": pa.timestamp("us")})),
    ],
)
def test_times_of_parquet_that_python_has_not_are_set_aside(index: Index, tmp_path: Path, odd: pa.Array) -> None:
    """Of whatever type, and however deep."""
    pq.write_table(pa.table({"id": ["a", "b"], "text": ["x", "y"], "when": odd}), tmp_path / "rows.parquet")
    staged = stage_documents(Source(location=str(tmp_path / "rows.parquet")), index.address, keys.new_id(), None)
    assert [(row, document) for row, document, _ in _reasons(index, staged)] == [(2, "b")]
    assert [row["id"] for row in _staged(index, staged.shards)] == ["a"]


def test_the_first_good_row_of_an_id_is_kept(index: Index, stage: Stage) -> None:
    """A row without text does not take the id from the one after it, and duplicates may be far apart."""
    rows: list[Row] = [{"id": "a", "text": ""}, *({"id": f"d{n}", "text": "x"} for n in range(3000))]
    rows += [{"id": "a", "text": "good"}, {"id": "a", "text": "late"}, {"id": "d0", "text": "late"}]
    staged = stage(rows)
    assert [(row, document) for row, document, _ in _reasons(index, staged)] == [(1, "a"), (3003, "a"), (3004, "d0")]
    assert [row["text"] for row in _staged(index, staged.shards) if row["id"] == "a"] == ["good"]


def test_rows_that_cannot_be_read_are_counted_too(index: Index, tmp_path: Path) -> None:
    """What the source sets aside and what staging sets aside are in one report."""
    source = tmp_path / "rows.jsonl"
    source.write_text('{"id": "a", "text": "x"}\n{broken\n{"id": "b", "text": ""}\n')
    staged = stage_documents(Source(location=str(source)), index.address, keys.new_id(), None)
    assert (staged.seen, staged.rejected, len(staged.shards)) == (3, 2, 1)
    assert [row for row, _, _ in _reasons(index, staged)] == [2, 3]


def test_a_source_without_one_good_row_has_no_shards(stage: Stage) -> None:
    """And still says what was wrong."""
    staged = stage([{"id": "a", "text": ""}])
    assert (staged.shards, staged.rejected) == ([], 1)
    assert staged.rejected_file is not None


def test_a_source_that_cannot_be_read_leaves_nothing_behind(index: Index, tmp_path: Path) -> None:
    """The error comes before the first shard."""
    with pytest.raises(SourceError):
        stage_documents(Source(location=str(tmp_path / "no.csv")), index.address, keys.new_id(), None)
    assert index.store.list("") == []


def test_documents_that_the_index_holds_are_left_out(index: Index, stage: Stage) -> None:
    """Equal ids with equal content are unchanged; with other content, or deleted before, they are staged."""
    add(index, make_recipe(index), {"same": "harbour", "changed": "copper", "deleted": "ember"})
    delete(index, "deleted")
    staged = stage(
        [
            {"id": "same", "text": "harbour"},
            {"id": "changed", "text": "violin"},
            {"id": "deleted", "text": "ember"},
            {"id": "new", "text": "saffron"},
        ]
    )
    assert (staged.seen, staged.unchanged, staged.rejected) == (4, 1, 0)
    assert [row["id"] for row in _staged(index, staged.shards)] == ["changed", "deleted", "new"]


@pytest.mark.parametrize("lost", [None, "", " ", "\t\u2003"])
def test_a_row_that_lost_its_id_may_be_any_document(index: Index, stage: Stage, lost: str | None) -> None:
    """A blank id is as good as none: nothing tells that the document behind it is gone."""
    add(index, make_recipe(index), {"a": "harbour", "b": "copper"})
    staged = stage([{"id": "a", "text": "harbour"}, {"id": lost, "text": "copper"}])
    assert (staged.rejected, staged.missing, staged.unnamed) == (1, ["b"], 1)


def test_a_row_that_is_set_aside_with_an_id_is_no_missing_document(index: Index, stage: Stage) -> None:
    """Its document is known, and stays as it was."""
    add(index, make_recipe(index), {"a": "harbour", "b": "copper"})
    staged = stage([{"id": "a", "text": "harbour"}, {"id": "b", "text": ""}])
    assert (staged.rejected, staged.missing, staged.unnamed) == (1, [], 0)


def test_a_source_that_the_index_holds_has_no_shards(index: Index, stage: Stage) -> None:
    """The second run of a flow has nothing to encode."""
    add(index, make_recipe(index), {"a": "harbour", "b": "copper"})
    staged = stage([{"id": "b", "text": "copper"}, {"id": "a", "text": "harbour"}])
    assert (staged.shards, staged.seen, staged.unchanged) == ([], 2, 2)


def test_shards_close_when_they_have_enough_documents(stage: Stage, index: Index) -> None:
    """At the end of the batch in which they reach the limit; no document is lost or moved."""
    rows: list[Row] = [{"id": f"d{number}", "text": "x"} for number in range(5000)]
    staged = stage(rows)
    assert len(staged.shards) > 1
    assert all(shard.documents < SHARD_DOCUMENTS + BATCH_ROWS for shard in staged.shards)
    assert all(shard.documents >= SHARD_DOCUMENTS for shard in staged.shards[:-1])
    assert [row["id"] for row in _staged(index, staged.shards)] == [row["id"] for row in rows]


def test_shards_respect_their_limits(stage: Stage) -> None:
    """Neither more documents nor more characters, unless a single document has them."""
    staged = stage([{"id": f"d{number}", "text": "x" * 10_000} for number in range(1500)])
    for shard in staged.shards:
        assert shard.documents <= SHARD_DOCUMENTS
        assert shard.characters <= SHARD_CHARACTERS or shard.documents == 1


def test_metadata_may_differ_from_row_to_row(index: Index, tmp_path: Path) -> None:
    """A field that comes late is empty before, and its type is that of the whole source."""
    rows = [{"id": f"d{n}", "text": "x"} | ({"late": n} if n > 2500 else {}) for n in range(2600)]
    source = tmp_path / "rows.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    staged = stage_documents(Source(location=str(source)), index.address, keys.new_id(), None)
    documents = _staged(index, staged.shards)
    assert (documents[0]["metadata"], documents[-1]["metadata"]) == ({"late": None}, {"late": 2599})


def test_a_field_that_another_document_brings_changes_none(index: Index, tmp_path: Path) -> None:
    """The others have it as null, which is what they said before."""
    source = tmp_path / "rows.jsonl"
    rows: list[Row] = [{"id": "ant", "text": "x", "legs": 6}, {"id": "bat", "text": "y", "wings": {"pairs": 1}}]
    hashes: list[list[object]] = []
    for some in (rows[:1], rows):
        source.write_text("".join(json.dumps(row) + "\n" for row in some))
        staged = stage_documents(Source(location=str(source)), index.address, keys.new_id(), None)
        hashes.append([row["content_hash"] for row in _staged(index, staged.shards)])
    assert hashes[0] == hashes[1][:1]


def test_the_same_time_is_the_same_content_in_every_time_zone(
    index: Index, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker elsewhere takes no document for changed."""
    rows: list[Row] = [{"id": "a", "text": "x", "when": datetime(2020, 1, 1, tzinfo=UTC)}]
    hashes: list[object] = []
    for zone in ("UTC", "Asia/Tokyo"):
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        hashes += [row["content_hash"] for row in _staged(index, stage(rows).shards)]
    monkeypatch.undo()
    time.tzset()
    assert hashes[0] == hashes[1]


def test_the_same_documents_make_shards_of_the_same_content(stage: Stage) -> None:
    """In another run they get other files; changed text gets another content."""
    rows: list[Row] = [{"id": "a", "text": "x"}, {"id": "b", "text": "y"}]
    first, second, other = stage(rows), stage(rows), stage([*rows[:1], {"id": "b", "text": "z"}])
    assert first.shards[0].content == second.shards[0].content != other.shards[0].content
    assert first.shards[0].file.key != second.shards[0].file.key


def test_removing_what_a_run_staged_leaves_other_runs_alone(index: Index, tmp_path: Path) -> None:
    """Shards go, the report stays."""
    source = tmp_path / "rows.jsonl"
    source.write_text('{"id": "a", "text": "x"}\n{"id": "b", "text": ""}\n')
    runs = [keys.new_id(), keys.new_id()]
    staged = [stage_documents(Source(location=str(source)), index.address, run, None) for run in runs]
    remove_staged(index.address, runs[0])
    kept = index.store.list("")
    assert staged[0].shards[0].file.key not in kept
    assert {staged[1].shards[0].file.key, keys.rejected(runs[0]), keys.rejected(runs[1])} <= set(kept)


def test_staging_says_how_far_it_has_come(stage: Stage) -> None:
    """Rows as they are read, and in the end how many there were."""
    steps: list[progress.Step] = []
    with progress.listening(steps.append):
        stage([{"id": f"d{number}", "text": "x"} for number in range(2000)])
    assert {step.stage for step in steps} == {"load"}
    assert sum(step.advance for step in steps) == steps[-1].total == 2000

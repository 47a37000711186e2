"""An index that mirrors a source, and the sources that it does not believe."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows import turns
from flows.build_index import build_index
from flows.parameters import BuildParameters, SyncParameters
from flows.summary import Summary
from flows.sync_index import sync_index
from index_format.errors import IndexNotFound, SourceError
from index_format.index import Index
from tasks.rows import Source
from tests.strategies import live_texts

pytestmark = pytest.mark.usefixtures("prefect_here")

ANIMALS = {name: f"The {name} is an animal." for name in ("ant", "bee", "cat", "dog", "eel", "fox")}


@pytest.fixture
def index(write_texts, tmp_path: Path) -> Index:
    """An index of six animals."""
    place = tmp_path / "index"
    build_index(BuildParameters(source=write_texts(ANIMALS), index=str(place)))
    return Index.at(place)


def sync(source: Source, index: Index, **settings: object) -> Summary:
    return sync_index(SyncParameters(source=source, index=index.address, **settings))


def test_a_sync_adds_changes_and_deletes_exactly_the_difference_by_one_commit(write_texts, index: Index) -> None:
    """And the second time there is no difference."""
    wanted = {**ANIMALS, "cat": "Cats purr.", "gnu": "Gnus graze."}
    del wanted["bee"]

    summary = sync(write_texts(wanted), index)

    assert (summary.version, summary.added, summary.changed, summary.deleted, summary.unchanged) == (2, 1, 1, 1, 4)
    assert live_texts(index) == wanted
    again = sync(write_texts(wanted), index)
    assert (again.version, again.published, again.deleted) == (2, False, 0)


def test_a_sync_that_only_deletes_publishes_that(write_texts, index: Index) -> None:
    """No document is new, so nothing is encoded."""
    wanted = {name: text for name, text in ANIMALS.items() if name != "fox"}
    summary = sync(write_texts(wanted), index)
    assert (summary.version, summary.deleted, summary.passages) == (2, 1, 0)
    assert live_texts(index) == wanted


def test_a_source_that_lost_too_much_changes_nothing_unless_told(write_texts, index: Index) -> None:
    """Half a source may be a download that broke off: nothing is added either."""
    half = {name: ANIMALS[name] for name in ("ant", "bee")} | {"gnu": "Gnus graze."}

    with pytest.raises(SourceError, match=r"4 of the 6 documents .* 67%; at most 20%.*--most-deleted 0\.67"):
        sync(write_texts(half), index)
    assert live_texts(index) == ANIMALS

    assert sync(write_texts(half), index, most_deleted=0.67).deleted == 4
    assert live_texts(index) == half


@pytest.mark.parametrize("lines", [[], ['{"id": "ant", "text": "The ant']])
def test_an_empty_or_broken_source_deletes_nothing(write_texts, index: Index, lines: list[str]) -> None:
    """Whether it is refused or set aside: the index stays as it was."""
    try:
        summary = sync(write_texts({}, *lines), index)
    except SourceError:
        pass
    else:
        assert (summary.published, summary.held_back) == (False, 6)
    assert live_texts(index) == ANIMALS


def test_a_row_that_is_set_aside_keeps_its_document(write_texts, index: Index) -> None:
    """The id is in the source, so it is not gone: the document stays as it was until the row is mended."""
    summary = sync(write_texts({**ANIMALS, "dog": " "}), index)
    assert (summary.published, summary.rejected, summary.deleted) == (False, 1, 0)
    assert live_texts(index) == ANIMALS


def test_rows_without_an_id_hold_back_deletions_and_the_run_warns(write_texts, index: Index) -> None:
    """A broken line may be the missing document: others are added, none is deleted, and it is said."""
    wanted = {name: text for name, text in ANIMALS.items() if name != "fox"} | {"gnu": "Gnus graze."}

    summary = sync(write_texts(wanted, '{"id": "fox", "text'), index)

    assert (summary.added, summary.deleted, summary.held_back) == (1, 0, 1)
    assert "1 documents are not in" in summary.warnings[0]
    assert set(live_texts(index)) == {*ANIMALS, "gnu"}


def test_a_sync_makes_no_index(write_texts, tmp_path: Path) -> None:
    """A wrong address is an error, and no second index."""
    with pytest.raises(IndexNotFound, match="colonnade build"):
        sync(write_texts(ANIMALS), Index.at(tmp_path / "nothing"))


def test_a_sync_stands_aside_while_another_of_the_index_is_at_work(write_texts, index: Index, monkeypatch) -> None:
    """On a schedule they would pile up, and encode the same documents beside each other; the next one does it all."""
    monkeypatch.setattr(turns, "BEAT_SECONDS", 0.2)
    source = write_texts({**ANIMALS, "gnu": "Gnus graze."})
    with turns.turn("sync", index.address):
        aside = sync(source, index)
    assert (aside.version, aside.published, aside.seen) == (1, False, 0)
    assert "another sync is at work on it" in aside.warnings[0]
    assert sync(source, index).added == 1

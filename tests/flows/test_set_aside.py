"""The rows that a run could not index, on its page in Prefect."""

from __future__ import annotations

import json
from typing import Any

import pytest
from prefect.client.orchestration import get_client

from flows import sight
from flows.build_index import add_documents, build_index
from flows.parameters import AddParameters, BuildParameters
from index_format.index import Index
from index_format.reports import read_report
from tests.flows.conftest import Write

pytestmark = pytest.mark.usefixtures("prefect_here")

BEES = {"bees": "Bees make honey from nectar."}


def set_aside_tables() -> list[dict[str, Any]]:
    """All of them that the server has, the newest first."""
    with get_client(sync_client=True) as client:
        wanted = {"artifacts": {"key": {"any_": ["set-aside"]}}, "sort": "CREATED_DESC"}
        return client.request("POST", "/artifacts/filter", json=wanted).json()


def test_a_run_shows_the_rows_that_it_set_aside_with_their_reasons(write_texts: Write, tmp_path) -> None:
    """Source, row, id and reason of each, as in the report of the version; a run that set nothing aside shows none."""
    index, before = str(tmp_path / "index"), len(set_aside_tables())
    build_index(BuildParameters(source=write_texts(BEES), index=index))
    assert len(set_aside_tables()) == before
    source = write_texts(
        BEES, '{"id": "empty", "text": " "}', '{"text": "Cats sleep."}', '{"id": "cats", "text": "Cats sleep."}', "{"
    )

    summary = add_documents(AddParameters(source=source, index=index))

    table, *older = set_aside_tables()
    assert len(older) == before
    assert (table["type"], table["description"]) == ("table", "3 rows were set aside")
    rows = json.loads(table["data"])  # of each thousand, first those that are no row at all
    assert rows == read_report(Index.at(index).files, summary.rejected_file)
    assert sorted(rows, key=lambda one: one["row"]) == [
        {"source": source.location, "row": 2, "id": "empty", "reason": "the text is empty"},
        {"source": source.location, "row": 3, "id": None, "reason": "the id is missing"},
        {"source": source.location, "row": 5, "id": None, "reason": "not valid JSON, or no object"},
    ]


def test_of_many_rows_the_first_hundred_are_shown_and_of_a_long_id_its_beginning(write_texts: Write, tmp_path) -> None:
    """A page that nobody could open would tell nothing; the report of the version has all of it."""
    long = "x" * 3_000_000
    rows = [json.dumps({"id": f"{long}{at}", "text": "Cats sleep."}) for at in range(3)]
    rows += ['{"text": "no id"}'] * 120

    summary = build_index(BuildParameters(source=write_texts(BEES, *rows), index=str(tmp_path / "index")))

    table = set_aside_tables()[0]
    shown = json.loads(table["data"])
    assert table["description"] == "123 rows were set aside"
    assert [one["row"] for one in shown] == list(range(2, 102))
    assert shown[0]["id"].startswith("xxx")
    assert len(shown[0]["id"]) < 1000
    assert read_report(Index.at(tmp_path / "index").files, summary.rejected_file)[0]["id"] == f"{long}0"


def test_a_page_that_cannot_be_written_is_no_failure_of_what_is_published(
    write_texts: Write, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prefect's server is busy, or refuses what it is sent: the version is there all the same."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError("the database is locked")

    for kind in ("table", "link", "markdown"):
        monkeypatch.setattr(sight, f"create_{kind}_artifact", refuse)
    index = str(tmp_path / "index")
    summary = build_index(BuildParameters(source=write_texts(BEES, "{"), index=index))
    assert (summary.published, summary.rejected) == (True, 1)
    assert Index.at(index).versions() == [1]

"""sync, reindex and eval as people and programs meet them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

from colonnade.running import run_flow
from index_format.index import Index
from tests.colonnade.command import Run, runner
from tests.strategies import live_texts


@pytest.fixture
def run(prefect_here, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """With a Prefect of its own."""
    return runner(monkeypatch, capfd)


def test_an_index_is_synced_made_anew_and_measured(run: Run, tmp_path: Path) -> None:
    """The session of someone who keeps an index, with the outcome of each step."""
    index, source = tmp_path / "index", tmp_path / "animals.jsonl"
    source.write_text('{"id": "bees", "text": "Bees make honey."}\n{"id": "cats", "text": "Cats sleep."}\n')
    (tmp_path / "queries.tsv").write_text("q\tWho makes honey?\n")
    (tmp_path / "qrels").write_text("q 0 bees 1\n")
    questions = ["--queries", tmp_path / "queries.tsv", "--judgements", tmp_path / "qrels"]
    assert run("build", source, index).code == 0

    source.write_text('{"id": "bees", "text": "Bees make honey."}\n')
    refused = run("sync", source, index)
    assert (refused.code, refused.out) == (3, "")
    assert "1 of the 2 documents" in refused.err
    assert "--most-deleted 0.5" in refused.err
    synced = json.loads(run("sync", source, index, "--most-deleted", 0.5, "--json").out)
    assert (synced["version"], synced["deleted"], live_texts(Index.at(index))) == (2, 1, {"bees": "Bees make honey."})

    assert json.loads(run("reindex", index, "--bits", 8, *questions, "--json").out)["version"] == 3
    report = tmp_path / "report.html"
    measured = json.loads(run("eval", index, *questions, "--beside", 2, "--report", report, "--json").out)
    assert "Beside version 2" in report.read_text()
    assert list(measured["measured"]["others"]) == ["exhaustive search", "BM25", "hybrid by rank", "hybrid by weight"]
    assert measured["measured"]["served"] == {"nDCG@10": 1.0, "Recall@100": 1.0, "MRR@100": 1.0, "MAP@100": 1.0}
    assert (measured["measured"]["version"], measured["beside"]["version"]) == (3, 2)
    table = run("eval", index).out
    assert "Recall@10 of exact" in table
    assert "version 3" in table


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["sync", __file__, "nothing"], 4, "There is no index at"),
        (["sync", __file__, "nothing", "--most-deleted", "2"], 3, "most_deleted: Input should be less than"),
        (["reindex", "nothing"], 4, "There is no index at"),
        (["reindex", "nothing", "--bits", "3"], 3, "bits: Input should be 1, 2, 4 or 8, got 3."),
        (["eval", "nothing"], 4, "There is no index at"),
        (["eval", "nothing", "--report", "page.html"], 3, "--report tells of each question"),
        (["eval", "nothing", "--queries", "q.tsv"], 3, "--queries and --judgements go together"),
    ],
)
def test_a_mistake_gets_one_message(run: Run, arguments: list[str], code: int, message: str) -> None:
    """No trace, and the documented exit code."""
    outcome = run(*arguments)
    assert (outcome.code, outcome.out) == (code, "")
    assert message in outcome.err
    assert "Traceback" not in outcome.err


def test_a_run_from_a_terminal_tells_a_server_that_stays_that_it_lives(prefect_here: None) -> None:
    """Else one that is killed stays "Running" there for ever: the automation waits for heartbeats."""
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: 60}):
        assert run_flow(PREFECT_FLOWS_HEARTBEAT_FREQUENCY.value) == 60

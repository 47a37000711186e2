"""Documents that lie far from the centroids: a run says so, and has a new codebook trained where that is wanted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client

from colonnade import terminal
from flows.build_index import add_documents, build_index
from flows.evaluate_index import evaluate_index
from flows.evaluation import Comparison
from flows.parameters import AddParameters, BuildParameters, EvaluateParameters
from index_format.errors import CommitConflict, StorageError
from index_format.index import Index
from index_format.manifest import Manifest
from tasks import drift, evaluate, train_codebook
from tasks.evaluate import Evaluation, recall_of_exact
from tests.strategies import live_texts

pytestmark = pytest.mark.usefixtures("prefect_here")

ANIMALS = {
    "cats": "Cats sleep all day and hunt at night.",
    "dogs": "Dogs sleep all night and bark all day.",
    "mice": "Mice sleep all day and run at night.",
    "owls": "Owls hunt all night and sleep by day.",
    "bats": "Bats hang all day and fly at night.",
    "hens": "Hens wake at dawn and rest at dusk.",
}
OTHERS = {"tax": "Quarterly withholding statements must reconcile accrued liabilities."}


@pytest.fixture
def index(write_texts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Index:
    """An index of six like sentences, two of them held out from its codebook, where so few count."""
    monkeypatch.setattr(train_codebook, "HELD_OUT_EVERY", 3)
    monkeypatch.setattr(train_codebook, "LEAST_TOKENS", 5)
    monkeypatch.setattr(drift, "LEAST_TOKENS", 5)
    build_index(BuildParameters(source=write_texts(ANIMALS), index=str(tmp_path / "index")))
    return Index.at(tmp_path / "index")


def test_documents_like_those_of_the_codebook_warn_of_nothing(index: Index, write_texts) -> None:
    """The same sentence under another id lies where the others do."""
    source = write_texts({"more cats": ANIMALS["cats"]})
    assert add_documents(AddParameters(source=source, index=index.address)).warnings == []
    (own, fresh) = drift.measure_drift(index.address, 2)
    assert (own.own, fresh.own, fresh.drifted) == (True, False, False)


def test_other_documents_warn_and_name_the_remedy(index: Index, write_texts) -> None:
    """The index has them all the same."""
    summary = add_documents(AddParameters(source=write_texts(OTHERS), index=index.address))
    assert "1 segments lie up to" in summary.warnings[0]
    assert f"colonnade reindex {index.address}" in summary.warnings[0]
    assert (summary.version, index.current().version) == (2, 2)


def test_drift_has_a_new_codebook_trained_where_that_is_wanted(index: Index, write_texts) -> None:
    """It fits all that is there, so the next run warns of nothing."""
    before = index.current().codebook.id
    summary = add_documents(AddParameters(source=write_texts(OTHERS), index=index.address, on_drift="reindex"))
    assert "A new codebook was trained: version 3." in summary.warnings[-1]
    assert (summary.version, index.current().version) == (3, 3)
    assert index.current().codebook.id != before
    assert set(live_texts(index)) == {*ANIMALS, *OTHERS}
    assert not [one for one in drift.measure_drift(index.address, 3) if one.drifted]


def test_a_codebook_that_answers_worse_is_not_published(index: Index, write_texts, monkeypatch) -> None:
    """Drift triggers a reindex, whose gate holds; the documents are published all the same, and the run warns."""
    before = index.current().codebook.id

    def measure(index: Index, proposed: Manifest, base: Manifest, _questions: None) -> Comparison:
        measured, beside = Evaluation(proposed.version, "", 10, 0.5), Evaluation(base.version, "", 10, 0.9)
        return Comparison(index.address, measured, beside)

    monkeypatch.setattr("flows.reindex_index.measure_beside", measure)
    summary = add_documents(AddParameters(source=write_texts(OTHERS), index=index.address, on_drift="reindex"))
    assert "answers worse, so the old one stays" in summary.warnings[-1]
    assert (summary.version, index.current().version, index.current().codebook.id) == (2, 2, before)
    assert set(live_texts(index)) == {*ANIMALS, *OTHERS}


@pytest.mark.parametrize("error", [StorageError("the disk is gone"), CommitConflict("another was first")])
def test_what_fails_after_the_commit_is_a_warning(index: Index, write_texts, monkeypatch, error: Exception) -> None:
    """The documents are published: a run that says it failed would have them published again."""

    def fail(*_: object) -> None:
        raise error

    source = write_texts(OTHERS)
    monkeypatch.setattr("flows.drift.reindex_index", fail)
    summary = add_documents(AddParameters(source=source, index=index.address, on_drift="reindex"))
    assert (summary.version, summary.published) == (2, True)
    assert f"that failed: {error}" in summary.warnings[-1]
    monkeypatch.setattr("flows.evaluation.measure_drift_task", fail)
    source = write_texts({"more": "Withholding liabilities accrue."})
    summary = add_documents(AddParameters(source=source, index=index.address, on_drift="reindex"))
    assert (summary.version, summary.published, summary.drift) == (3, True, [])
    assert f"drift of version 3 could not be measured: {error}" in summary.warnings[-1]


def test_an_evaluation_warns_of_drift_and_the_terminal_shows_its_table(index: Index, write_texts, capsys) -> None:
    """As the run did that added the documents."""
    added = add_documents(AddParameters(source=write_texts(OTHERS), index=index.address))
    evaluated = evaluate_index(EvaluateParameters(index=index.address))
    assert evaluated.warnings == added.warnings
    assert evaluated.drift == added.drift
    capsys.readouterr()
    terminal.print_summary(added)
    told = capsys.readouterr().err
    assert all(name in told for name in ("Drift", "quantisation", "ratio", f"colonnade reindex {index.address}"))


def test_the_drift_table_tells_what_a_search_finds_of_exact_maxsim(index: Index, write_texts, monkeypatch) -> None:
    """One where every passage is scored anyway; by a sample of queries in a larger index; nothing in a huge one."""
    assert recall_of_exact(index.address, 1) == 1.0
    monkeypatch.setitem(evaluate.EXHAUSTIVE_BYTES, "balanced", 0)
    add_documents(AddParameters(source=write_texts(OTHERS), index=index.address))
    with get_client(sync_client=True) as client:
        wanted = {"artifacts": {"key": {"any_": ["drift"]}}, "sort": "CREATED_DESC", "limit": 1}
        (table,) = client.request("POST", "/artifacts/filter", json=wanted).json()
    *segments, last = json.loads(table["data"])
    assert [one["recall_10"] for one in segments] == [None, None]
    assert last["segment"] == "all of the index"
    assert 0 < last["recall_10"] <= 1
    monkeypatch.setattr(evaluate, "_MOST_TOKENS", 1)
    assert recall_of_exact(index.address, 1) is None


def test_too_little_text_is_no_measure(index: Index, write_texts, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few sentences lie anywhere."""
    monkeypatch.setattr(drift, "LEAST_TOKENS", 2048)
    assert add_documents(AddParameters(source=write_texts(OTHERS), index=index.address)).warnings == []
    assert [one.ratio for one in drift.measure_drift(index.address, 2)] == [None, None]

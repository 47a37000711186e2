"""Documents that lie far from the centroids: a run says so, and has a new codebook trained where that is wanted."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.build_index import add_documents, build_index
from flows.parameters import AddParameters, BuildParameters
from index_format.index import Index
from tasks import drift
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
    """An index of six like sentences, whose small codebook counts as a large one."""
    monkeypatch.setattr(drift, "LEAST_TOKENS_PER_CENTROID", 0)
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
    assert "A new codebook was trained: version 3." in summary.warnings[0]
    assert (summary.version, index.current().version) == (3, 3)
    assert index.current().codebook.id != before
    assert set(live_texts(index)) == {*ANIMALS, *OTHERS}
    assert not [one for one in drift.measure_drift(index.address, 3) if one.drifted]


def test_a_small_codebook_is_no_measure(index: Index, write_texts, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has learned its tokens by heart, and everything else lies far from it."""
    monkeypatch.setattr(drift, "LEAST_TOKENS_PER_CENTROID", 16)
    assert add_documents(AddParameters(source=write_texts(OTHERS), index=index.address)).warnings == []

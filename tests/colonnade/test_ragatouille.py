"""RAGatouille's programs on Colonnade: the same calls, the same results, and none of its known defects."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from colonnade import Collection
from colonnade.ragatouille import RAGPretrainedModel
from index_format.errors import IndexNotFound, InputError
from index_format.store import open_store
from index_format.verify import verify

TEXTS = ["Bees make honey from nectar.", "Cats sleep for most of the day.", "Dogs bark at strangers."]
IDS = ["bees", "cats", "dogs"]
METADATAS = [{"legs": 6, "title": "Insects"}, {"legs": 4}, {"legs": "four", "wild": None, "seen": [1, {"at": 2}]}]
LONG = "Foxes run through the forest at night. " * 40
KEYS = ["content", "score", "rank", "document_id", "passage_id", "document_metadata"]


@pytest.fixture(scope="module")
def rag(tmp_path_factory: pytest.TempPathFactory) -> RAGPretrainedModel:
    """With an index "animals" that no test changes."""
    made = RAGPretrainedModel.from_pretrained("embedded", index_root=str(tmp_path_factory.mktemp("rag")))
    made.index(TEXTS, document_ids=IDS, document_metadatas=METADATAS, index_name="animals")
    return made


@pytest.fixture
def own(tmp_path: Path) -> RAGPretrainedModel:
    """With an index "own" for one test."""
    made = RAGPretrainedModel.from_pretrained("embedded", index_root=str(tmp_path))
    made.index(TEXTS, document_ids=IDS, index_name="own")
    return made


def ids(results: list[dict[str, Any]]) -> list[str]:
    return [one["document_id"] for one in results]


def test_the_five_lines_of_its_readme_run_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Load, index a long document in passages under .ragatouille, search: and it is an index like any other."""
    monkeypatch.chdir(tmp_path)
    RAG = RAGPretrainedModel.from_pretrained("embedded")
    path = RAG.index(collection=[LONG], index_name="Miyazaki", max_document_length=64, split_documents=True)
    results = RAG.search(query="Where do foxes run?", k=3)
    assert path == ".ragatouille/colbert/indexes/Miyazaki"
    assert [one["rank"] for one in results] == [1, 2, 3]
    assert all(one["content"] in LONG and len(one["content"]) < len(LONG) for one in results)
    assert list(verify(open_store(path), [1])) == []
    assert Collection(path).inspect()["passage_tokens"] == 64
    again = RAGPretrainedModel.from_index(path)
    assert again.search("Where do foxes run?", k=3) == results


def test_results_have_its_shape(rag: RAGPretrainedModel) -> None:
    """A dictionary for each with its keys; ranks from 1 or from 0; metadata exactly as it was given."""
    results = rag.search("Who makes honey?", k=3)
    assert list(results[0]) == KEYS
    assert (results[0]["content"], results[0]["document_id"]) == (TEXTS[0], "bees")
    assert isinstance(results[0]["passage_id"], int)
    assert len({one["passage_id"] for one in results}) == 3
    told = {one["document_id"]: one["document_metadata"] for one in results}
    assert told == dict(zip(IDS, METADATAS, strict=True))
    assert [one["rank"] for one in rag.search("honey", zero_index_ranks=True)] == [0, 1, 2]
    assert json.loads(json.dumps(results)) == results
    one, two = rag.search(["Who makes honey?", "Who barks?"], k=2)
    assert (ids(one)[0], ids(two)[0], len(two)) == ("bees", "dogs", 2)
    assert rag.search(["Who makes honey?"], k=3) == results  # as RAGatouille has it for a list of one
    assert rag.search("Who makes honey?", k=3, force_fast=True) == results
    assert ids(rag.search("honey", where={"op": "==", "column": "id", "value": "cats"})) == ["cats"]


def test_doc_ids_hold_for_every_query_of_a_batch(rag: RAGPretrainedModel) -> None:
    """RAGatouille drops them where the query is a list, and an unknown id with others finds the others."""
    found = rag.search(["Who makes honey?", "Who barks?"], doc_ids=["cats", "dogs", "nobody"])
    assert [set(ids(one)) for one in found] == [{"cats", "dogs"}] * 2
    assert ids(rag.search("Who makes honey?", doc_ids=["cats"])) == ["cats"]


def test_no_doc_ids_find_nothing_and_not_everything(rag: RAGPretrainedModel) -> None:
    """An empty list is a filter that nothing passes."""
    assert rag.search("honey", doc_ids=[]) == []
    assert rag.search(["honey", "bark"], doc_ids=[]) == [[], []]
    assert rag.search("honey", doc_ids=["nobody"]) == []


def test_a_later_k_is_not_bounded_by_the_first(rag: RAGPretrainedModel, tmp_path: Path) -> None:
    """ColBERT's searcher keeps what it chose for the first k (ColBERT #382)."""
    many = RAGPretrainedModel.from_pretrained("embedded", index_root=str(tmp_path))
    many.index([f"Animal number {number} eats grass." for number in range(90)], index_name="many")
    assert len(many.search("Who eats grass?", k=1)) == 1
    assert len(many.search("Who eats grass?", k=80)) == 80
    assert len(rag.search("honey", k=1000)) == 3


def test_a_delete_leaves_every_other_document_its_text_and_metadata(tmp_path: Path) -> None:
    """RAGatouille numbers its texts anew and not its ids: wrong texts, or a KeyError (#222, #101, #192)."""
    made = RAGPretrainedModel.from_pretrained("embedded", index_root=str(tmp_path))
    made.index(TEXTS, document_ids=IDS, document_metadatas=METADATAS, index_name="own")
    before = {one["document_id"]: one["passage_id"] for one in made.search("animals")}
    made.delete_from_index(["bees"])
    for question, expected in (("Who sleeps?", 1), ("Who barks?", 2)):
        best = made.search(question, k=1)[0]
        assert (best["content"], best["document_id"]) == (TEXTS[expected], IDS[expected])
        assert best["document_metadata"] == METADATAS[expected]
        assert best["passage_id"] == before[IDS[expected]]
    again = RAGPretrainedModel.from_index(tmp_path / "colbert" / "indexes" / "own")
    assert set(ids(again.search("animals"))) == {"cats", "dogs"}


def test_one_id_to_delete_is_that_id_and_no_part_of_it(tmp_path: Path) -> None:
    """RAGatouille looks whether each id is *in* the text it was given, so "doc10" takes doc1 along."""
    made = RAGPretrainedModel.from_pretrained("embedded", index_root=str(tmp_path))
    made.index(["One.", "Ten."], document_ids=["doc1", "doc10"], index_name="own")
    made.delete_from_index("doc10")
    assert ids(made.search("number")) == ["doc1"]
    made.delete_from_index("nobody")


def test_documents_are_added_again_and_again(own: RAGPretrainedModel) -> None:
    """RAGatouille's second add_to_index crashes (#174, #266)."""
    for number in range(3):
        own.add_to_index([f"Owl number {number} hunts at night."], new_document_ids=[f"owl-{number}"])
    assert len(own.search("Who hunts at night?", k=10)) == 6
    assert ids(own.search("Who hunts at night?", k=1))[0].startswith("owl-")


def test_an_id_that_is_there_gets_the_new_content(own: RAGPretrainedModel) -> None:
    """RAGatouille leaves such a document out and says nothing; metadata may come with an add, too."""
    own.add_to_index(["Bees sting."], ["bees"], [{"changed": True}])
    best = own.search("Who stings?", k=1)[0]
    assert (best["content"], best["document_metadata"]) == ("Bees sting.", {"changed": True})
    assert sorted(ids(own.search("animals"))) == IDS


def test_an_index_is_found_by_its_name_and_each_has_its_own_texts(tmp_path: Path) -> None:
    """RAGatouille asks the model index that it happens to have, and answers with the texts of another."""
    made = RAGPretrainedModel.from_pretrained("embedded", index_root=str(tmp_path))
    made.index(TEXTS[:1], document_ids=["a"], index_name="one")
    made.index(TEXTS[1:], document_ids=["a", "b"], index_name="two")
    fresh = RAGPretrainedModel.from_pretrained("embedded", index_root=str(tmp_path))
    assert [one["content"] for one in fresh.search("animals", index_name="one")] == TEXTS[:1]
    assert {one["content"] for one in fresh.search("animals", index_name="two")} == set(TEXTS[1:])
    fresh.delete_from_index(["b"], index_name="two")  # RAGatouille ignores the root (#101)
    assert len(fresh.search("animals")) == 1
    assert len(made.search("animals", index_name="one")) == 1
    with pytest.raises(IndexNotFound, match="three"):
        fresh.search("animals", index_name="three")
    with pytest.raises(IndexNotFound, match="call index"):
        RAGPretrainedModel.from_pretrained("embedded").search("animals")


def test_an_index_is_replaced_only_once_the_new_one_is_whole(own: RAGPretrainedModel, tmp_path: Path) -> None:
    """By default an index of the same name goes, "reuse" keeps it, False refuses; a failure leaves the old one."""
    with pytest.raises(InputError, match="overwrite_index=True"):
        own.index(["New."], index_name="own", overwrite_index=False)
    own.index(["New."], index_name="own", overwrite_index="reuse")
    with pytest.raises(InputError, match="No document to index"):
        own.index([""], index_name="own")
    assert sorted(ids(own.search("animals"))) == IDS
    own.index(["New."], document_ids=["new"], index_name="own")
    assert ids(own.search("animals")) == ["new"]
    assert [path.name for path in (tmp_path / "colbert" / "indexes").iterdir()] == ["own"]
    (tmp_path / "colbert" / "indexes" / "plaid").mkdir()
    (tmp_path / "colbert" / "indexes" / "plaid" / "centroids.pt").write_bytes(b"")
    with pytest.raises(InputError, match="is not an index"):
        own.index(["New."], index_name="plaid")


def test_a_splitter_and_preprocessing_of_ones_own_make_the_pieces(tmp_path: Path) -> None:
    """Pieces keep the document's id and metadata, and come and go with it."""
    made = RAGPretrainedModel.from_pretrained("embedded", index_root=str(tmp_path))

    def by_sentence(documents: list[str], document_ids: list[str], chunk_size: int) -> list[dict[str, str]]:
        assert chunk_size == 100
        pairs = zip(document_ids, documents, strict=True)
        return [{"document_id": id_, "content": piece} for id_, text in pairs for piece in text.split(". ")]

    def louder(pieces: list[dict[str, str]], document_ids: list[str]) -> list[dict[str, str]]:
        return [{**piece, "content": piece["content"].upper()} for piece in pieces]

    splits = {"document_splitter_fn": by_sentence, "preprocessing_fn": [louder]}
    texts = ["Bees make honey. Bees sting. Bees dance", "Cats sleep"]
    made.index(texts, ["bees", "cats"], [{"n": 1}, {"n": 2}], "own", max_document_length=100, **splits)
    results = made.search("Who stings?", k=4)
    assert (results[0]["content"], results[0]["document_id"]) == ("BEES STING", "bees")
    assert [one["document_metadata"]["n"] for one in results].count(1) == 3
    assert ids(made.search("Who sleeps?", doc_ids=["bees"])) == ["bees"] * 3
    made.add_to_index(["Bees fly. Bees rest"], ["bees"], **splits)
    assert {one["content"] for one in made.search("bees", doc_ids=["bees"])} == {"BEES FLY", "BEES REST"}
    made.add_to_index(["Bees are gone."], ["bees"])
    assert {one["content"] for one in made.search("bees", doc_ids=["bees"])} == {"Bees are gone."}
    made.delete_from_index(["bees"])
    assert ids(made.search("animals")) == ["cats"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"document_ids": ["a"]}, "same length"),
        ({"document_ids": ["a", "a", "b"]}, "unique"),
        ({"document_ids": ["a", " ", "b"]}, "empty strings"),
        ({"document_metadatas": [{}]}, "same length"),
    ],
)
def test_wrong_ids_and_metadata_are_refused_as_it_refuses_them(
    rag: RAGPretrainedModel, given: dict[str, Any], message: str
) -> None:
    """By a ValueError, and nothing is built."""
    with pytest.raises(ValueError, match=message):
        rag.index(TEXTS, index_name="wrong", **given)
    rag.index_name = "animals"


def test_texts_are_ranked_without_an_index(rag: RAGPretrainedModel) -> None:
    """For one query or several, from rank 1 or 0; long texts count with their best passage."""
    results = rag.rerank("Who makes honey?", [*TEXTS, LONG + TEXTS[0]], k=4)
    assert list(results[0]) == ["content", "score", "rank", "result_index"]
    assert (results[0]["result_index"], [one["rank"] for one in results]) == (0, [1, 2, 3, 4])
    assert rag.rerank("Where do foxes run?", [*TEXTS, LONG + TEXTS[0]], k=1)[0]["result_index"] == 3
    one, two = rag.rerank(["Who makes honey?", "Who barks?"], TEXTS, k=1, zero_index_ranks=True)
    assert (one[0]["content"], two[0]["content"], one[0]["rank"]) == (TEXTS[0], TEXTS[2], 0)


def test_a_k_above_the_number_of_texts_ranks_them_all(rag: RAGPretrainedModel) -> None:
    """RAGatouille's rerank prints a line and returns None, and its search in memory raises."""
    assert len(rag.rerank("honey", TEXTS, k=10)) == 3


def test_scores_in_memory_are_maxsim_of_the_encoders_own_vectors(rag: RAGPretrainedModel) -> None:
    """And close to those that the index gives from its codes."""
    encoder = rag._encoder
    ((_, vectors),) = next(encoder.encode([TEXTS[0]]))
    expected = (encoder.encode_query("Who makes honey?") @ vectors.T).max(axis=1).sum()
    score = rag.rerank("Who makes honey?", TEXTS, k=1)[0]["score"]
    assert score == pytest.approx(float(expected), rel=1e-5)
    assert score == pytest.approx(rag.search("Who makes honey?", k=1)[0]["score"], rel=0.05)


def test_texts_encoded_in_memory_are_searched_and_forgotten(rag: RAGPretrainedModel) -> None:
    """Metadata may come with the second call alone, and with several queries; ranks are from 1.

    RAGatouille misspells its own attribute in the first case, fails in the second, and counts from 0, or from -1.
    """
    rag.encode(TEXTS[:1])
    rag.encode(TEXTS[1:], document_metadatas=METADATAS[1:])
    (first,) = rag.search_encoded_docs("Who makes honey?", k=1)
    assert (first["content"], first["rank"], "document_metadata" in first) == (TEXTS[0], 1, False)
    one, two = rag.search_encoded_docs(["Who sleeps?", "Who barks?"], k=5)
    assert (one[0]["document_metadata"], two[0]["result_index"], len(two)) == (METADATAS[1], 2, 3)
    rag.clear_encoded_docs(force=True)
    with pytest.raises(InputError, match="call encode first"):
        rag.search_encoded_docs("anything")
    rag.encode(TEXTS[2:])
    assert rag.search_encoded_docs("anything")[0]["content"] == TEXTS[2]
    rag.clear_encoded_docs()


def test_threads_may_search_while_documents_come(own: RAGPretrainedModel) -> None:
    """RAGatouille's search is not safe for threads (#262)."""
    with ThreadPoolExecutor(4) as pool:
        searches = [pool.submit(own.search, "Who makes honey?", k=1) for _ in range(12)]
        own.add_to_index(["Owls hunt."], ["owls"])
        assert [ids(one.result()) for one in searches] == [["bees"]] * 12


def test_its_retriever_and_compressor_work_with_langchain_1(rag: RAGPretrainedModel) -> None:
    """RAGatouille's import fails with it (#275), and its compressor writes into the documents it is given."""
    documents = pytest.importorskip("langchain_core.documents", reason="colonnade[langchain] is not installed")
    found = rag.as_langchain_retriever(k=2).invoke("Who makes honey?")
    assert [type(one) for one in found] == [documents.Document] * 2
    assert (found[0].page_content, found[0].metadata) == (TEXTS[0], METADATAS[0])
    given = [documents.Document(page_content=text, metadata={"n": n}) for n, text in enumerate(TEXTS)]
    kept = rag.as_langchain_document_compressor(k=2).compress_documents(given, "Who barks?")
    assert (kept[0].page_content, len(kept)) == (TEXTS[2], 2)
    assert kept[0].metadata["n"] == 2
    assert kept[0].metadata["relevance_score"] > kept[1].metadata["relevance_score"]
    assert np.all([one.metadata == {"n": n} for n, one in enumerate(given)])

"""`import colonnade`: an index from Python, by the steps of the flows and without a run of Prefect."""

from __future__ import annotations

import doctest
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pytest
import torch

import colonnade
from colonnade import Collection, ColonnadeError, Settings
from index_format.errors import IndexNotFound, InputError, NothingToIndex, SourceError
from index_format.index import Index
from index_format.store import open_store
from index_format.verify import verify

ANIMALS = [
    {"id": "bees", "title": "Bees", "text": "They make honey from nectar.", "legs": 6},
    {"id": "cats", "text": "Cats sleep for most of the day.", "legs": 4},
    {"id": "dogs", "text": "Dogs bark at strangers.", "legs": 4},
]


@pytest.fixture(scope="module")
def animals(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    """Three documents, never changed by a test."""
    collection = Collection(tmp_path_factory.mktemp("facade") / "index")
    collection.add(ANIMALS)
    return collection


@pytest.mark.parametrize("name", colonnade.__all__)
def test_every_public_name_has_an_example_that_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is printed, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    (example,) = [
        one
        for one in doctest.DocTestFinder(recurse=False).find(getattr(colonnade, name), name, globs={})
        if one.examples
    ]
    said: list[str] = []
    assert doctest.DocTestRunner().run(example, out=said.append).failed == 0, "".join(said)


def test_a_collection_on_the_processor_leaves_a_gpu_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it adds and what it asks. This torch would fail on a GPU that it is told is there."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    collection = Collection(tmp_path / "index", device="cpu")
    assert collection.add({"bees": "Bees make honey."}).added == 1
    assert collection.search("honey")[0].document_id == "bees"


def test_the_public_names_are_few_and_their_import_is_light() -> None:
    """At most ten; and importing the package, as the command line does first, brings no model, table or web code."""
    assert len(colonnade.__all__) <= 10
    assert set(colonnade.__all__) <= set(dir(colonnade))
    with pytest.raises(AttributeError, match="no attribute 'Index'"):
        _ = colonnade.Index
    heavy = "import sys, colonnade; print({'torch', 'prefect', 'pyarrow', 'numpy', 'duckdb'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True, check=True).stdout == "set()\n"


class Interchanged:
    """A dataframe of which only the interchange protocol is known."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table

    def __dataframe__(self, nan_as_null: bool = False, allow_copy: bool = True) -> object:
        return self._table.__dataframe__(nan_as_null, allow_copy)


TABLE = pa.Table.from_pylist(ANIMALS)
FORMS: dict[str, Callable[[], object]] = {
    "a list of dictionaries": lambda: ANIMALS,
    "a generator": lambda: (dict(row) for row in ANIMALS),
    "a mapping": lambda: {row["id"]: {name: row[name] for name in row if name != "id"} for row in ANIMALS},
    "an Arrow table": lambda: TABLE,
    "batches as they come": TABLE.to_reader,
    "a DuckDB relation": lambda: duckdb.connect().from_arrow(TABLE),
    "a dataframe by interchange": lambda: Interchanged(TABLE),
}


@pytest.mark.parametrize("form", FORMS)
def test_documents_come_in_every_form_that_python_has(form: str, animals: Collection) -> None:
    """The index holds them already, with equal content: nothing changes."""
    again = animals.add(FORMS[form]())
    assert (again.version, again.unchanged, again.added, len(again.rejected)) == (1, 3, 0, 0)


def test_dataframes_of_pandas_come_and_go(animals: Collection) -> None:
    """A dataframe is added, its index left out where it has no name, and an answer turns into one."""
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    frame = pandas.DataFrame(ANIMALS)
    frame.index = frame.index + 7
    assert animals.add(frame).unchanged == 3
    answer = animals.search("Who makes honey?")
    assert list(answer.to_pandas()["score"]) == [hit.score for hit in answer]


def test_a_source_of_another_shape_is_added_by_its_columns(tmp_path: Path) -> None:
    """A path, as on the command line; ids that are numbers become text."""
    (tmp_path / "more.csv").write_text("key,body,head\n1,Owls hunt at night.,Owls\n")
    collection = Collection(tmp_path / "index")
    names = {"id_column": "key", "text_column": "body", "title_column": "head"}
    assert collection.add(tmp_path / "more.csv", **names).added == 1
    assert collection.add([{"key": 1, "body": "Owls hunt at night.", "head": "Owls"}], **names).unchanged == 1
    assert collection.documents(["1"])[0].title == "Owls"


def test_what_json_cannot_say_is_indexed_all_the_same(tmp_path: Path) -> None:
    """Not a number is null, NumPy's scalars are numbers, dates text, and a lone surrogate is replaced."""
    odd = {"id": "odd", "text": "Owls \ud800 hunt.", "weight": float("nan"), "wings": np.int64(2), "tags": {"a"}}
    collection = Collection(tmp_path / "index")
    assert collection.add([odd, {"id": "b", "text": "Bees.", "weight": 1.5}]).added == 2
    (document,) = collection.documents(["odd"])
    assert document.text == "Owls \ufffd hunt."
    assert document.metadata == {"wings": 2, "tags": ["a"]}


def test_every_change_is_one_version_that_is_searched_at_once(tmp_path: Path) -> None:
    """Add, replace, delete by id and filter, roll back, tag, compact: and the index stays sound."""
    collection = Collection(tmp_path / "index", settings=Settings(bits=8))
    built = collection.add(ANIMALS)
    assert (built.version, built.added) == (1, 3)
    assert collection.search("Who makes honey?", k=1)[0].document_id == "bees"
    changed = collection.add([{"id": "bees", "text": "Bees sting."}, {"id": "owls", "text": "Owls hunt at night."}])
    assert (changed.version, changed.added, changed.changed) == (2, 1, 1)
    assert collection.version == 2
    assert collection.search("Who stings?", k=1)[0].text == "Bees sting."
    assert collection.delete(["cats", "nobody"]).deleted == 1
    assert collection.delete(where={"op": "==", "column": "legs", "value": 4}).deleted == 1
    assert {hit.document_id for hit in collection.search("animals")} == {"bees", "owls"}
    assert collection.tag("two", 2) == 5
    assert {hit.document_id for hit in collection.at("two").search("animals")} == {"bees", "cats", "dogs", "owls"}
    assert collection.rollback(1) == 6
    assert {hit.document_id for hit in collection.search("animals")} == {"bees", "cats", "dogs"}
    assert collection.compact().version == 6
    assert collection.collect_garbage().sizes == {}
    assert [version.operation for version in collection.versions()][:2] == ["rollback", "tag"]
    assert collection.inspect()["bits"] == 8
    assert list(collection.verify(all_versions=True)) == []
    assert not [key for prefix in ("staging/", "receipts/") for key in open_store(collection.address).list(prefix)]


def test_what_others_change_is_seen_after_a_refresh(tmp_path: Path) -> None:
    """And not before: between two refreshes every answer is from one version."""
    ours, theirs = Collection(tmp_path / "index"), Collection(tmp_path / "index")
    ours.add(ANIMALS)
    assert len(ours.search("animals")) == 3
    theirs.delete(["bees"])
    assert (len(ours.search("animals")), ours.refresh(), len(ours.search("animals")), ours.refresh()) == (
        3,
        True,
        2,
        False,
    )


def test_an_older_version_is_for_reading(animals: Collection) -> None:
    """It answers, and refuses every change."""
    pinned = animals.at(1)
    assert pinned.version == 1
    assert pinned.search("Who makes honey?", k=1) == animals.search("Who makes honey?", k=1)
    for change in (
        lambda: pinned.add(ANIMALS),
        lambda: pinned.delete(["bees"]),
        lambda: pinned.rollback(1),
        lambda: pinned.tag("x"),
        pinned.compact,
        pinned.collect_garbage,
        pinned.refresh,
    ):
        with pytest.raises(InputError, match="is for reading"):
            change()
    with pytest.raises(IndexNotFound, match="does not retain version 9"):
        animals.at(9)


def test_a_batch_answers_as_one_question_at_a_time_does(animals: Collection) -> None:
    """Texts and vectors, a filter and k hold for each of them."""
    few = {"op": "==", "column": "legs", "value": 4}
    questions = ["Who makes honey?", "Who sleeps?", "Who barks?"]
    together = animals.batch_search(questions, k=2, where=few)
    assert [[hit.document_id for hit in one] for one in together] == [
        [hit.document_id for hit in animals.search(question, k=2, where=json.dumps(few))] for question in questions
    ]
    assert {hit.metadata["legs"] for one in together for hit in one} == {4}
    assert animals.batch_search([]) == []
    vectors = animals._searcher().encode(["Who sleeps?"])[0]
    assert animals.search(vectors, k=1)[0].document_id == "cats"
    assert animals.search("animals", k=2, offset=1).items == animals.search("animals", k=3)[1:]


@pytest.mark.parametrize("hybrid", ["rank", "weight"])
def test_words_can_count_beside_what_they_mean(animals: Collection, hybrid: str) -> None:
    """Each hit then says what both sides gave; with all the weight on BM25, only the word itself counts."""
    answer = animals.search("honey", hybrid=hybrid)
    assert answer[0].document_id == "bees"
    assert answer[0].fused is not None
    assert (answer[0].fused.bm25_rank, answer[0].fused.maxsim_rank) == (1, 1)
    assert answer.to_arrow().column("fused").to_pylist()[0]["bm25"] > 0
    by_words = animals.search("honey sleep", hybrid=hybrid, weight=0.0)
    assert {hit.document_id for hit in by_words if hit.fused and hit.fused.bm25 > 0} < {"bees", "cats", "dogs"}


def test_answers_turn_into_tables_and_dictionaries(animals: Collection) -> None:
    """Columns for the fields of a hit, metadata as a struct; an empty answer has the columns, too."""
    answer = animals.search("Who makes honey?", recall="exact")
    table = answer.to_arrow()
    assert table.column("document_id").to_pylist() == [hit.document_id for hit in answer]
    assert table.column("metadata").to_pylist()[0] == {"legs": 6}
    assert answer.to_dicts()[0]["text"] == "They make honey from nectar."
    nothing = animals.search("honey", where={"op": "==", "column": "legs", "value": 7})
    assert (len(nothing), nothing.to_arrow().column_names) == (0, table.column_names)


def test_metadata_of_several_types_turns_into_a_table_as_text(tmp_path: Path) -> None:
    """One document says 1990, another "about 1990"."""
    collection = Collection(tmp_path / "index")
    collection.add([{"id": "a", "text": "One.", "year": 1990}])
    collection.add([{"id": "b", "text": "Two.", "year": "about 1990"}])
    years = collection.documents(["a", "b"]).to_arrow().column("metadata").to_pylist()
    assert years == [{"year": "1990"}, {"year": "about 1990"}]


def test_an_explanation_adds_up_and_names_the_words(animals: Collection) -> None:
    """A row for each token of the query and each hit."""
    (hit,) = animals.search("Who makes honey?", k=1)
    matches = animals.explain("Who makes honey?", k=1)
    assert np.sum([match.weight for match in matches], dtype=np.float32) == pytest.approx(hit.score)
    (honey,) = [match for match in matches if match.token == "honey"]
    assert (honey.words, honey.document_id) == ("honey", "bees")
    assert set(matches.to_arrow().column_names) >= {"token", "weight", "words"}


@pytest.mark.parametrize(
    ("documents", "message"),
    [
        (5, "expected an iterable of dictionaries.*got int"),
        (["a text"], "got one that holds a str"),
        ([{"id": "a"}], "no column 'text'"),
        (pa.table({"id": ["a"]}), "no column 'text'"),
        ("nowhere.csv", "there is no such file"),
    ],
)
def test_documents_that_are_none_are_refused(animals: Collection, documents: object, message: str) -> None:
    """What was expected is said, and nothing is written."""
    with pytest.raises((InputError, SourceError), match=message):
        animals.add(documents)
    assert Index.at(animals.address).versions() == [1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"query": " "}, "it is empty"),
        ({"query": "a", "k": 0}, "expected at least 1 and 0, got 0"),
        ({"query": "a", "recall": "all"}, "expected one of fast, balanced, exact"),
        ({"query": "a", "hybrid": "both"}, "hybrid: expected 'rank', 'weight' or None, got 'both'"),
        ({"query": "a", "hybrid": "rank", "weight": 2}, "weight: expected MaxSim's share from 0 to 1, got 2"),
        ({"query": np.zeros((2, 384), np.float32), "hybrid": "rank"}, "BM25 needs the query's text"),
        ({"query": "a", "where": {"op": "==", "column": "wings", "value": 2}}, "no column 'wings'"),
        ({"query": ["a", "b"]}, "expected a text or its token vectors, got list"),
        ({"query": "a", "hybrid": "rank", "k": 10, "offset": 91}, "together may reach 100, got 101"),
        ({"query": np.full((2, 384), np.nan, np.float32)}, "expected finite numbers in its vectors"),
        ({"query": np.zeros((2, 3), np.float32)}, r"shape \[tokens, 384\], got \[2, 3\]"),
    ],
)
def test_a_question_that_is_none_is_refused(animals: Collection, options: dict[str, object], message: str) -> None:
    """By an error that is in the tree of errors."""
    with pytest.raises(ColonnadeError, match=message):
        animals.search(**options)


def test_one_text_is_not_taken_for_its_characters(animals: Collection) -> None:
    """Where several ids or queries are expected."""
    for call in (animals.delete, animals.documents, animals.batch_search):
        with pytest.raises(InputError, match=r"expected several, such as \['bees'\], got one text"):
            call("bees")


def test_an_index_is_begun_by_documents_and_keeps_its_settings(tmp_path: Path, animals: Collection) -> None:
    """Nothing to index begins nothing; other settings are refused once it is there."""
    with pytest.raises(NothingToIndex, match="the text is empty"):
        Collection(tmp_path / "index").add([{"id": "a", "text": ""}])
    assert Index.at(tmp_path / "index").head() is None
    with pytest.raises(IndexNotFound):
        Collection(tmp_path / "index").search("anything")
    with pytest.raises(InputError, match="the index that is there has bits 4, not 8"):
        Collection(animals.address, settings=Settings(bits=8)).add(ANIMALS)
    with pytest.raises(InputError, match="bits: expected 1, 2, 4 or 8, got 5"):
        Settings(bits=5)
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / "letter.txt").write_text("x")
    with pytest.raises(InputError, match="is not an index"):
        Collection(tmp_path / "papers").add(ANIMALS)


def test_a_bucket_holds_an_index_like_a_directory(fresh_s3_address: str) -> None:
    """Add, search and delete at s3://."""
    collection = Collection(fresh_s3_address)
    collection.add(ANIMALS[:2])
    assert collection.search("Who makes honey?", k=1)[0].document_id == "bees"
    assert collection.delete(["bees"]).version == 2
    assert len(collection.search("honey")) == 1
    assert list(verify(open_store(fresh_s3_address), [1, 2])) == []

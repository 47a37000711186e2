"""What an index's answers are worth: judged questions in every form, compared with exact search and another version."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from prefect.client.orchestration import get_client

from flows.build_index import add_documents, build_index
from flows.evaluate_index import evaluate_index
from flows.evaluation import Comparison, measures_table
from flows.parameters import AddParameters, BuildParameters, EvaluateParameters, ReindexParameters
from flows.picture import differences
from flows.reindex_index import reindex_index
from flows.report import page, write_report
from index_format.errors import InputError, SourceError
from index_format.index import Index
from tasks.evaluate import Evaluation
from tasks.measures import MEASURES, mean, measure
from tasks.questions import Judged, read_questions

TINY = str(Path(__file__).parents[1] / "parity" / "golden" / "colbert-bert")
QUESTIONS = {"1": "Which animal makes honey?", "2": "Who barks?", "3": "Unanswered"}
ANSWERS = {"1": {"bees": 2}, "2": {"dogs": 1, "cats": 0}}
TEXTS = {"bees": "Bees make honey from nectar.", "cats": "Cats sleep all day.", "dogs": "Dogs bark at strangers."}


def write_questions(folder: Path, queries: str, judgements: str) -> Judged:
    """The questions above as the two files named."""
    rows = [(query, document, rel) for query, judged in ANSWERS.items() for document, rel in judged.items()]
    forms = {
        "queries.tsv": "".join(f"{query}\t{text}\n" for query, text in QUESTIONS.items()),
        "queries.csv": "id,text\n" + "".join(f'{query},"{text}"\n' for query, text in QUESTIONS.items()),
        "queries.jsonl": "".join(f'{{"_id": "{query}", "text": "{text}"}}\n' for query, text in QUESTIONS.items()),
        "topics.trec": "".join(
            f"<top>\n<num> Number: {query}\n<title> {text}\n<desc> Description:\nMore.\n</top>\n"
            for query, text in QUESTIONS.items()
        ),
        "qrels": "".join(f"{query} 0 {document} {rel}\n" for query, document, rel in rows),
        "qrels.tsv": "query-id\tcorpus-id\tscore\n" + "".join(f"{a}\t{b}\t{c}\n" for a, b, c in rows),
    }
    for name, text in forms.items():
        (folder / name).write_text(text)
    pq.write_table(pa.table({"id": [*QUESTIONS], "text": [*QUESTIONS.values()]}), folder / "queries.parquet")
    columns = dict(zip(("query_id", "doc_id", "relevance"), map(list, zip(*rows, strict=True)), strict=True))
    pq.write_table(pa.table(columns), folder / "qrels.parquet")
    return Judged(queries=str(folder / queries), judgements=str(folder / judgements))


@pytest.mark.parametrize(
    ("queries", "judgements"),
    [
        ("queries.tsv", "qrels"),
        ("queries.csv", "qrels.tsv"),
        ("queries.jsonl", "qrels"),
        ("queries.parquet", "qrels.parquet"),
        ("topics.trec", "qrels.tsv"),
    ],
)
def test_questions_are_read_from_every_form_alike(tmp_path: Path, queries: str, judgements: str) -> None:
    """And a question without a relevant document is left out."""
    texts, judged = read_questions(write_questions(tmp_path, queries, judgements))
    assert texts == {"1": QUESTIONS["1"], "2": QUESTIONS["2"]}
    assert judged == ANSWERS


def test_questions_that_cannot_be_used_say_why(tmp_path: Path) -> None:
    """A wrong file, a wrong line, and judgements of other queries."""
    good = write_questions(tmp_path, "queries.tsv", "qrels")
    (tmp_path / "bad").write_text("1 0 bees\n")
    (tmp_path / "other").write_text("99 0 bees 1\n")
    with pytest.raises(SourceError, match="line 1 has 3 fields"):
        read_questions(good.model_copy(update={"judgements": str(tmp_path / "bad")}))
    with pytest.raises(SourceError, match="none of its queries has a relevant document"):
        read_questions(good.model_copy(update={"judgements": str(tmp_path / "other")}))
    with pytest.raises(SourceError, match="no TREC topic"):
        read_questions(good.model_copy(update={"queries": str(tmp_path / "qrels")}))
    (tmp_path / "topics").write_text("<top><num> Number: 1 <desc> No title. </top>")
    with pytest.raises(SourceError, match="topic 1 has no <num> or no <title>"):
        read_questions(good.model_copy(update={"queries": str(tmp_path / "topics")}))
    with pytest.raises(SourceError, match="none of the columns"):
        read_questions(good.model_copy(update={"judgements": str(tmp_path / "queries.csv")}))


def test_measures_are_those_of_trec_eval() -> None:
    """By hand: linear gain, a query that found nothing counts as zero, one without relevant documents not at all."""
    judgements = {"a": {"x": 2, "y": 1}, "b": {"k": 1}, "none": {"x": 0}}
    means = mean(measure(judgements, {"a": ["y", "x", "n"], "none": ["x"]}))
    ndcg = (1 + 2 / 1.584962500721156) / (2 + 1 / 1.584962500721156)
    assert means == pytest.approx({"nDCG@10": ndcg / 2, "Recall@100": 0.5, "MRR@100": 0.5, "MAP@100": 0.5})


def test_a_version_is_measured_beside_exact_search_and_an_older_version(prefect_here, write_texts, tmp_path) -> None:
    """The older one lacks an answer; the run's page has the table, the drift and the version."""
    place = str(tmp_path / "index")
    build_index(BuildParameters(source=write_texts({"cats": TEXTS["cats"], "bees": TEXTS["bees"]}), index=place))
    add_documents(AddParameters(source=write_texts(TEXTS), index=place))
    judged = write_questions(tmp_path, "queries.jsonl", "qrels")

    done: Comparison = evaluate_index(EvaluateParameters(index=place, judged=judged, beside=1))

    assert done.measured.served == done.measured.exact == dict.fromkeys(done.measured.served, 1.0)
    assert done.beside is not None
    assert done.beside.served["nDCG@10"] == 0.5
    assert done.differences == [{"query": "2", "before": 0.0, "now": 1.0}]
    assert done.measured.recall_10 == 1.0
    assert list(done.references) == ["version 1", "exhaustive search", "BM25", "hybrid by rank", "hybrid by weight"]
    assert done.references["BM25"]["2"]["nDCG@10"] == 1.0
    assert {"evaluation", "differences", "picture", "drift", "version"} <= artifact_keys()
    write_report(tmp_path / "report.html", done)
    report = (tmp_path / "report.html").read_text()
    assert report.index("Beside version 1") < report.index("Better") < report.index("Who barks?")
    assert "1 better, 1 alike" in report
    assert not re.search(r"""(src|href)=|@import|url\(""", report)


def test_a_report_shows_texts_as_they_are_and_many_queries_in_one_picture() -> None:
    """Nothing of a query is markup; and more queries than bars are told by some of them, first and last alike."""
    names = [f"<b>{number:04d}" for number in range(1201)]
    before = {name: dict.fromkeys(MEASURES, 0.5) for name in names}
    now = {name: dict.fromkeys(MEASURES, at / 1200) for at, name in enumerate(names)}
    measured = Evaluation(2, "encoder", len(names), 1.0, mean(now), mean(before), now, {"exhaustive search": before})
    told = page(Comparison("<index>", measured, None, {names[0]: "<script>"}))
    assert "<script>" not in told
    assert "<b>" not in told
    assert "&lt;script&gt;" in told
    assert told.count("<rect") == 600
    assert "600 queries are answered worse, 600 better, 1 alike" in told
    rows = differences(now, before)
    assert [rows[0].query, rows[-1].query] == [names[0], names[-1]]
    assert all(f"b&gt;{number}: 0.5" in told for number in ("0000", "1200"))


def test_without_questions_passages_of_the_index_stand_for_them(prefect_here, write_texts, tmp_path) -> None:
    """How much of exhaustive search is found can be told of any index."""
    place = str(tmp_path / "index")
    build_index(BuildParameters(source=write_texts(TEXTS), index=place))
    done: Comparison = evaluate_index(EvaluateParameters(index=place))
    assert (done.measured.queries, done.measured.recall_10, done.measured.served) == (3, 1.0, {})
    assert Index.at(place).versions() == [1]


def test_without_questions_two_versions_are_held_to_exact_search_over_the_finer_one(
    prefect_here, write_texts, tmp_path
) -> None:
    """Whichever is asked for; by its own vectors a coarse version finds all. The drift table keeps what is its own."""
    words = ["glacier", "lantern", "harbour", "honey", "circle", "metre", "day", "bird", "move", "above"]
    texts = {f"{at:02}": " ".join(words[at * step % 10] for step in range(1, 5 + at % 7)) for at in range(40)}
    place = str(tmp_path / "index")
    build_index(BuildParameters(source=write_texts(texts), index=place, encoder=TINY))
    reindex_index(ReindexParameters(index=place, bits=1, tolerance=1))
    alone: Comparison = evaluate_index(EvaluateParameters(index=place))
    coarse: Comparison = evaluate_index(EvaluateParameters(index=place, beside=1))
    fine: Comparison = evaluate_index(EvaluateParameters(index=place, version=1, beside=2))
    assert alone.measured.recall_10 == 1.0
    assert coarse.reference == fine.reference == 1
    assert coarse.beside == fine.measured
    assert coarse.measured == fine.beside
    assert coarse.measured.recall_10 < fine.measured.recall_10 == 1.0
    assert f"{place}: version 2 answers worse than version 1." in coarse.warnings
    assert not fine.warnings
    row = measures_table(coarse)[-1]
    expected = "Recall@10 of exact in version 1", 1.0, None
    assert (row["measure"], row["version 1"], row["exhaustive search"]) == expected


def test_versions_of_two_encoders_are_not_compared_without_questions(prefect_here, write_texts, tmp_path) -> None:
    """The error tells what is missing; with questions it works."""
    place = str(tmp_path / "index")
    build_index(BuildParameters(source=write_texts(TEXTS), index=place))
    reindex_index(ReindexParameters(index=place, encoder=TINY))
    with pytest.raises(InputError, match=r"versions 2 and 1 are of two encoders, .*--queries and --judgements"):
        evaluate_index(EvaluateParameters(index=place, beside=1))
    judged = write_questions(tmp_path, "queries.jsonl", "qrels")
    done: Comparison = evaluate_index(EvaluateParameters(index=place, beside=1, judged=judged))
    assert done.beside is not None
    assert done.beside.served["nDCG@10"] == 1.0


@pytest.mark.parametrize(
    ("beside", "reference", "name", "exact"),
    [
        (None, None, "Recall@10 of exact", 1.0),
        (Evaluation(1, "encoder", 9, 0.9), None, "Recall@10 of each one's exact", 1.0),
        (Evaluation(1, "encoder", 9, 0.9), 1, "Recall@10 of exact in version 1", None),
        (Evaluation(1, "encoder", 9, 0.9), 2, "Recall@10 of exact in version 2", 1.0),
    ],
)
def test_the_table_says_whose_exact_search_is_the_reference(
    beside: Evaluation | None, reference: int | None, name: str, exact: float | None
) -> None:
    """What exact search over the version's own vectors finds of another's was not measured."""
    compared = Comparison("index", Evaluation(2, "encoder", 9, 0.8), beside, reference=reference)
    (row,) = measures_table(compared)
    assert (row["measure"], row["version 2"], row["exhaustive search"]) == (name, 0.8, exact)


def artifact_keys() -> set[str]:
    with get_client(sync_client=True) as client:
        answer = client.request("POST", "/artifacts/latest/filter", json={})
        assert answer.status_code == httpx.codes.OK
        return {one["key"] for one in answer.json()}

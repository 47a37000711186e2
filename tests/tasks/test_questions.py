"""Queries and judgements as other programs write them, and the rows that are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from index_format.errors import SourceError
from tasks.questions import Judged, read_queries, read_questions
from tests.tasks.source_files import read


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("all.csv", '"id","text"\n"1","Who ""barks"", then?"\n"2","Who sleeps?"\n'),
        ("mark.csv", '\ufeff"","query_id","text"\r\n"1","1","Who ""barks"", then?"\r\n"2","2","Who sleeps?"\r\n'),
        ("headless.csv", '"1","Who ""barks"", then?"\n"2","Who sleeps?"\n'),
        ("all.tsv", '"id"\t"text"\n"1"\t"Who ""barks"", then?"\n"2"\t"Who sleeps?"\n'),
        ("plain.tsv", 'id\ttext\n1\tWho "barks", then?\n2\tWho sleeps?\n'),
        ("headless.tsv", '1\tWho "barks", then?\n2\tWho sleeps?\n'),
    ],
)
def test_names_of_columns_may_be_in_quotes(tmp_path: Path, name: str, content: str) -> None:
    """R and pandas write them so; the line of names is no query, and a quote in plain TSV is text."""
    (tmp_path / name).write_bytes(content.encode())
    assert read_queries(str(tmp_path / name)) == {"1": 'Who "barks", then?', "2": "Who sleeps?"}


def test_a_text_that_begins_with_a_quote_stays_in_plain_tsv(tmp_path: Path) -> None:
    """With the rows after it."""
    (tmp_path / "queries.tsv").write_text('1\t"Barks\n2\tWho sleeps?\n')
    assert read_queries(str(tmp_path / "queries.tsv")) == {"1": '"Barks', "2": "Who sleeps?"}


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("q.jsonl", '{"id": "1", "text": "x"}\n{"id": "2", "text": null}\n', "row 2 has no text"),
        ("q.jsonl", '{"qid": null, "text": "x"}\n{"qid": null, "text": "y"}\n', "row 1 has no qid"),
        ("q.jsonl", '{"id": "1", "text": "x"}\n{"id": "1", "text": "y"}\n', "queries 1 and 2 both have the id '1'"),
        ("q.csv", "id,text\n1,x\n2,y\n1,z\n", "queries 1 and 3 both have the id '1'"),
        ("q.trec", "<top><num> 1 <title> x </top>\n" * 2, "queries 1 and 2 both have the id '1'"),
    ],
)
def test_queries_without_id_or_text_or_with_the_id_of_another_are_refused(
    tmp_path: Path, name: str, content: str, reason: str
) -> None:
    """By file and row; else one query would stand for another, or be the word None."""
    (tmp_path / name).write_text(content)
    with pytest.raises(SourceError, match=rf"{name}: {reason}"):
        read_queries(str(tmp_path / name))


@pytest.mark.parametrize("reader", [read, read_queries])
def test_a_quote_without_an_end_in_the_names_of_columns_is_refused(
    tmp_path: Path, reader: Callable[[str], object]
) -> None:
    """The first line is then as long as the file; of documents and of queries."""
    (tmp_path / "rows.csv").write_text('"id,text' + " word" * 100_000 + "\n1,x\n")
    with pytest.raises(SourceError, match=r"rows\.csv: cannot be read: field larger than field limit"):
        reader(str(tmp_path / "rows.csv"))


@pytest.mark.parametrize("relevance", ["inf", "-inf", "nan", "much"])
@pytest.mark.parametrize("name", ["qrels", "qrels.csv"])
def test_relevance_that_is_no_number_is_refused(tmp_path: Path, name: str, relevance: str) -> None:
    """Infinity is none that can be counted with."""
    line = f"1 0 bees {relevance}" if name == "qrels" else f"query_id,doc_id,relevance\n1,bees,{relevance}"
    (tmp_path / name).write_text(line + "\n")
    (tmp_path / "queries.tsv").write_text("1\tWho barks?\n")
    with pytest.raises(SourceError, match=f"relevance of 'bees' is '{relevance}', expected a number"):
        read_questions(Judged(queries=str(tmp_path / "queries.tsv"), judgements=str(tmp_path / name)))


def test_judgements_without_a_document_are_refused(tmp_path: Path) -> None:
    """With their row."""
    (tmp_path / "qrels.jsonl").write_text('{"query_id": "1", "doc_id": null, "relevance": 1}\n')
    (tmp_path / "queries.tsv").write_text("1\tWho barks?\n")
    with pytest.raises(SourceError, match=r"qrels\.jsonl: row 1 has no doc_id"):
        read_questions(Judged(queries=str(tmp_path / "queries.tsv"), judgements=str(tmp_path / "qrels.jsonl")))

"""Queries and judgements in, from Parquet, JSON Lines, CSV, TSV and TREC files."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from html import unescape
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.json as pajson
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field

from index_format.errors import SourceError
from tasks.measures import answerable
from tasks.sources import find_source

_QUERY_ID = ("query_id", "query-id", "_id", "id", "qid")
_QUERY_TEXT = ("text", "query", "question")
_DOCUMENT_ID = ("doc_id", "document_id", "corpus-id", "corpus_id", "docid")
_RELEVANCE = ("relevance", "score", "label", "rel")
_TREC_FIELDS = 4
_TOPIC = re.compile(r"<top>(.*?)</top>", re.DOTALL | re.IGNORECASE)
_TOPIC_ID = re.compile(r"<num>\s*(?:number\s*:)?\s*([^\s<]+)", re.IGNORECASE)
_TOPIC_TITLE = re.compile(r"<title>\s*(?:topic\s*:)?\s*([^<]*)", re.IGNORECASE)
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_JSON = (".jsonl", ".ndjson")


class Judged(BaseModel):
    """Queries with relevance judgements."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    queries: str = Field(
        min_length=1,
        description="TREC topics, or a .parquet, .jsonl, .csv or .tsv file with an id and a text for each query; "
        "local or s3://",
    )
    judgements: str = Field(
        min_length=1,
        description="A TREC qrels file, or a .parquet, .jsonl, .csv or .tsv file with query, document and relevance",
    )


def read_questions(judged: Judged) -> tuple[dict[str, str], dict[str, dict[str, int]]]:
    """Texts by query id, and relevance by query id and document id, of the queries that have a relevant document.

    Raises SourceError when a file cannot be read, or when the two have no query in common.
    """
    judgements = answerable(_read_judgements(judged.judgements))
    queries = {query: text for query, text in read_queries(judged.queries).items() if query in judgements}
    if not queries:
        raise SourceError(f"{judged.queries}: none of its queries has a relevant document in {judged.judgements}.")
    return queries, {query: judgements[query] for query in queries}


def read_queries(location: str) -> dict[str, str]:
    """Texts by query id, in the order of a file with an id and a text for each, or of topics. Raises SourceError."""
    if not _is_table(location):
        return _by_id(location, _topics(location))
    table = _read_table(location, headless=("id", "text"))
    ids, texts = (_strings(table, location, names) for names in (_QUERY_ID, _QUERY_TEXT))
    return _by_id(location, zip(ids, texts, strict=True))


def _by_id(location: str, queries: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Texts by id. Raises SourceError where two queries have one id: answers are told apart by it."""
    found: dict[str, tuple[int, str]] = {}
    for row, (query, text) in enumerate(queries, start=1):
        if query in found:
            raise SourceError(
                f"{location}: queries {found[query][0]} and {row} both have the id {query!r}: give each its own."
            )
        found[query] = (row, text)
    return {query: text for query, (_, text) in found.items()}


def _read_judgements(location: str) -> dict[str, dict[str, int]]:
    rows = _judged_rows(location)
    judgements: dict[str, dict[str, int]] = {}
    for query, document, relevance in rows:
        try:
            judgements.setdefault(query, {})[document] = int(float(relevance))
        except (ValueError, OverflowError):
            raise SourceError(f"{location}: relevance of {document!r} is {relevance!r}, expected a number.") from None
    return judgements


def _judged_rows(location: str) -> Iterator[tuple[str, str, str]]:
    if not _is_table(location):
        yield from _trec_rows(location)
        return
    table = _read_table(location, headless=("query_id", "doc_id", "relevance"))
    columns = (_strings(table, location, names) for names in (_QUERY_ID, _DOCUMENT_ID, _RELEVANCE))
    yield from zip(*columns, strict=True)


def _is_table(location: str) -> bool:
    return PurePosixPath(location).suffix.lower() in (".parquet", *_JSON, *_DELIMITERS)


def _topics(location: str) -> Iterator[tuple[str, str]]:
    """Number and title of each topic of a TREC file; only the topics themselves have a tag that ends them."""
    topics = _TOPIC.findall(_text(location))
    if not topics:
        raise SourceError(
            f"{location}: no TREC topic, <top> to </top>, is in it. Other files are told by their names: .parquet, "
            ".jsonl, .csv, .tsv."
        )
    for at, topic in enumerate(topics, start=1):
        number, title = _TOPIC_ID.search(topic), _TOPIC_TITLE.search(topic)
        if number is None or title is None or not title[1].strip():
            raise SourceError(f"{location}: topic {at} has no <num> or no <title>.")
        yield number[1], " ".join(unescape(title[1]).split())


def _text(location: str) -> str:
    try:
        return _read(location).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SourceError(f"{location}: cannot be read: it is not UTF-8 ({error}).") from error


def _trec_rows(location: str) -> Iterator[tuple[str, str, str]]:
    for number, line in enumerate(_text(location).splitlines(), start=1):
        fields = line.split()
        if fields and len(fields) != _TREC_FIELDS:
            raise SourceError(
                f"{location}: line {number} has {len(fields)} fields; a TREC file has four: query, 0, document, "
                "relevance. Other files are told by their names: .parquet, .jsonl, .csv, .tsv."
            )
        if fields:
            yield fields[0], fields[2], fields[3]


def _read_table(location: str, headless: Sequence[str]) -> pa.Table:
    """All rows of a table; a .tsv or .csv whose first line names no column that we know has none."""
    suffix = PurePosixPath(location).suffix.lower()
    data = _read(location)
    try:
        if suffix == ".parquet":
            return pq.read_table(pa.BufferReader(data))
        if suffix in _JSON:
            return pajson.read_json(pa.BufferReader(data))
        if suffix in _DELIMITERS:
            return _read_delimited(data, _DELIMITERS[suffix], headless)
    except (pa.ArrowException, UnicodeDecodeError, csv.Error) as error:
        raise SourceError(f"{location}: cannot be read: {str(error).splitlines()[0]}") from error
    raise SourceError(f"{location}: expected a file ending in .parquet, .jsonl, .ndjson, .csv or .tsv.")


def _read_delimited(data: bytes, delimiter: str, headless: Sequence[str]) -> pa.Table:
    line = data.split(b"\n", 1)[0].decode("utf-8-sig").strip("\r")
    first = next(csv.reader([line], delimiter=delimiter), [])
    known = {*_QUERY_ID, *_QUERY_TEXT, *_DOCUMENT_ID, *_RELEVANCE}
    names = None if known & set(first) else list(headless)
    # A quote in .tsv is text, unless the names of the columns are in quotes too.
    quoted = delimiter == "," or (names is None and first != line.split(delimiter))
    parse = pacsv.ParseOptions(delimiter=delimiter, quote_char='"' if quoted else False)
    types = pacsv.ConvertOptions(column_types=dict.fromkeys(names or first, pa.string()))
    return pacsv.read_csv(pa.BufferReader(data), pacsv.ReadOptions(column_names=names), parse, types)


def _strings(table: pa.Table, location: str, names: Sequence[str]) -> list[str]:
    """The first column that has one of the names, as text. Raises SourceError where a row has nothing in it."""
    found = next((name for name in names if name in table.column_names), None)
    if found is None:
        raise SourceError(
            f"{location}: none of the columns {', '.join(names)} is there; it has {', '.join(table.column_names)}."
        )
    values = table[found].to_pylist()
    if None in values:
        raise SourceError(
            f"{location}: row {values.index(None) + 1} has no {found}: give it one, or leave the row out."
        )
    return [str(value) for value in values]


def _read(location: str) -> bytes:
    files, path = find_source(location)
    try:
        data: bytes = files.cat_file(path)
    except OSError as error:
        raise SourceError(f"{location}: cannot be read ({error}).") from error
    return data

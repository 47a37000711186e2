"""SQL over an index and documents out of it: what is live and nothing else, and no way to write."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer

from colonnade import Collection, ColonnadeError
from colonnade.cli import app
from index_format.errors import InputError, StorageError
from tests.colonnade.command import Run, runner
from tests.colonnade.test_facade import ANIMALS

LONG = "Foxes 🦊 run é far. " * 60


@pytest.fixture(scope="module")
def animals(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    """Two segments whose metadata differ, one of several passages, and a document that was deleted."""
    collection = Collection(tmp_path_factory.mktemp("sql") / "it's here" / "index")
    collection.add([*ANIMALS, {"id": "gone", "text": "Nobody sees this.", "legs": 1}])
    collection.add([{"id": "foxes", "title": "Foxes", "text": LONG, "color": "red"}])
    collection.delete(["gone"])
    return collection


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """The command line."""
    return runner(monkeypatch, capfd)


def test_documents_are_rows_and_metadata_a_struct(animals: Collection) -> None:
    """Over all segments, whatever columns each of them has; a deleted document is in none of the tables."""
    rows = animals.sql("SELECT id, title, metadata.legs, metadata.color FROM documents ORDER BY id").to_pylist()
    assert rows == [
        {"id": "bees", "title": "Bees", "legs": 6, "color": None},
        {"id": "cats", "title": None, "legs": 4, "color": None},
        {"id": "dogs", "title": None, "legs": 4, "color": None},
        {"id": "foxes", "title": "Foxes", "legs": None, "color": "red"},
    ]
    assert animals.sql("SELECT count(*) AS n FROM documents WHERE text LIKE 'Nobody%'").to_pylist() == [{"n": 0}]
    assert animals.sql("SELECT count(*) AS n FROM passages WHERE document_id = 'gone'").to_pylist() == [{"n": 0}]
    assert animals.at(1).sql("SELECT count(*) AS n FROM documents").to_pylist() == [{"n": 4}]


def test_passages_are_the_texts_that_a_search_returns(animals: Collection) -> None:
    """Cut at characters, not at bytes, and in order they are the document."""
    rows = animals.sql("SELECT * FROM passages WHERE document_id = 'foxes' ORDER BY number").to_pylist()
    assert len(rows) > 1
    assert "".join(row["text"] for row in rows) == LONG
    assert all(row["text"] == LONG[row["start"] : row["end"]] for row in rows)
    (hit,) = animals.search("Which foxes run?", k=1)
    assert hit.text == rows[hit.passage]["text"]


def test_statistics_are_those_of_inspect_and_versions(animals: Collection) -> None:
    """Sums over segments, and a row for each version."""
    (sums,) = animals.sql(
        "SELECT sum(documents - deleted_documents) AS documents, sum(passages - deleted_passages) AS passages, "
        "sum(tokens) AS tokens, count(*) AS segments FROM segments"
    ).to_pylist()
    assert sums == {name: animals.inspect()[name] for name in sums}
    assert [row["version"] for row in animals.sql("FROM versions").to_pylist()] == [3, 2, 1]


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM read_text('{folder}/secret.csv')",
        "SELECT * FROM '{folder}/secret.csv'",
        "SELECT * FROM glob('{folder}/*')",
        "COPY (SELECT 1) TO '{folder}/secret.csv'",
        "COPY (SELECT 1) TO '{file}' (USE_TMP_FILE false)",
        "FROM query('COPY (SELECT 1) TO ''{folder}/secret.csv''')",
        "ATTACH '{folder}/new.db'",
        "SELECT 1; DROP VIEW documents",
        "CREATE TABLE mine AS SELECT 1",
        "SET enable_external_access = true",
        "INSTALL httpfs",
        "PRAGMA database_list",
        "EXPORT DATABASE '{folder}/all'",
        "SELECT nonsense",
        "",
    ],
)
def test_no_statement_reaches_beyond_the_index_or_writes(animals: Collection, tmp_path: Path, statement: str) -> None:
    """One message each; files outside stay unread, and every file stays what it was."""
    (tmp_path / "secret.csv").write_text("secret\n1\n")
    file = next(Path(animals.address).rglob("documents.parquet"))
    before = file.read_bytes()
    with pytest.raises(InputError, match="sql: "):
        animals.sql(statement.format(folder=tmp_path, file=str(file).replace("'", "''")))
    assert file.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["secret.csv"]
    assert (tmp_path / "secret.csv").read_text() == "secret\n1\n"


def test_an_index_in_which_all_is_deleted_has_empty_tables(tmp_path: Path) -> None:
    """With the same names and columns."""
    collection = Collection(tmp_path / "index")
    collection.add([{"id": "a", "text": "One."}])
    collection.delete(["a"])
    collection.compact()
    for table in ("documents", "passages"):
        assert collection.sql(f"SELECT id_.* FROM {table} AS id_").num_rows == 0
    assert collection.export(tmp_path / "none.jsonl") == 0


def test_what_is_exported_is_built_into_an_equal_index(animals: Collection, tmp_path: Path) -> None:
    """As JSON Lines and as Parquet: the same documents, and of the same documents the same scores."""
    assert animals.export(tmp_path / "out.jsonl") == 4
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]
    copy, again = Collection(tmp_path / "copy"), Collection(tmp_path / "again")
    copy.add(tmp_path / "out.jsonl")
    copy.export(tmp_path / "out.parquet")
    again.add(tmp_path / "out.parquet")
    ids = ["bees", "cats", "dogs", "foxes"]
    assert animals.documents(ids) == copy.documents(ids) == again.documents(ids)
    question = "Which animal makes something sweet?"
    assert again.search(question) == copy.search(question)
    assert copy.add(tmp_path / "out.parquet").unchanged == 4


def test_passages_are_exported_on_request(animals: Collection, tmp_path: Path) -> None:
    """A row for each, with its document and its place."""
    count = animals.export(tmp_path / "out.parquet", passages=True)
    table = pq.read_table(tmp_path / "out.parquet")
    assert (count, table.column_names) == (table.num_rows, ["document_id", "number", "start", "end", "text"])
    assert count == animals.inspect()["passages"]


def test_an_export_is_there_whole_or_not_at_all(animals: Collection, tmp_path: Path) -> None:
    """One that fails leaves the file that was there before, and nothing beside it."""
    (tmp_path / "out.jsonl").write_text("before")
    (tmp_path / "out.parquet").mkdir()  # cannot be replaced by a file
    with pytest.raises(StorageError, match=r"out\.parquet"):
        animals.export(tmp_path / "out.parquet")
    with pytest.raises(StorageError):
        animals.export(tmp_path / "nowhere" / "out.jsonl")
    with pytest.raises(InputError, match=r"expected a local file ending in \.parquet"):
        animals.export(tmp_path / "out.txt")
    with pytest.raises(InputError, match=r"expected a local file ending in \.parquet"):
        animals.export("s3://bucket/out.parquet")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.jsonl", "out.parquet"]
    assert (tmp_path / "out.jsonl").read_text() == "before"


def test_every_value_survives_an_export_as_far_as_the_file_can_say_it(tmp_path: Path) -> None:
    """Names that need quotes, dates, and numbers that JSON does not have."""
    rows = {"id": ["a", "b"], "text": ["One.", "Two."], 'the "weight"': [float("nan"), 1.5]}
    collection = Collection(tmp_path / "index")
    collection.add(pa.table({**rows, "seen": [date(2026, 1, 2)] * 2}))
    collection.export(tmp_path / "out.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line['the "weight"'] for line in lines] == [None, 1.5]
    assert lines[0]["seen"] == "2026-01-02"
    collection.export(tmp_path / "out.parquet")
    assert collection.add(tmp_path / "out.parquet").unchanged == 2


def test_metadata_that_has_a_documents_own_names_is_not_exported_under_them(tmp_path: Path) -> None:
    """Two columns of one name would come back as one."""
    collection = Collection(tmp_path / "index")
    collection.add([{"key": "a", "text": "One.", "id": "other"}], id_column="key")
    with pytest.raises(ColonnadeError, match="metadata has columns of the names id"):
        collection.export(tmp_path / "out.jsonl")


def test_a_bucket_is_asked_through_the_files_on_this_machine(fresh_s3_address: str, tmp_path: Path) -> None:
    """SQL and export of an index at s3://."""
    collection = Collection(fresh_s3_address)
    collection.add(ANIMALS[:2])
    assert collection.sql("SELECT id FROM documents ORDER BY id").to_pylist() == [{"id": "bees"}, {"id": "cats"}]
    assert collection.export(tmp_path / "out.parquet") == 2


def test_the_commands_print_what_the_methods_return(run: Run, animals: Collection, tmp_path: Path) -> None:
    """sql, export, explain and batch-search, for programs and for people."""
    at = animals.address
    rows = json.loads(run("sql", at, "SELECT id FROM documents ORDER BY id LIMIT 1", "--json").out)
    assert rows == [{"id": "bees"}]
    assert "bees" in run("sql", at, "FROM documents").out
    refused = run("sql", at, "DELETE FROM documents")
    assert (refused.code, "expected one SELECT" in refused.err) == (3, True)
    assert "4 rows" in run("export", at, tmp_path / "out.parquet").err
    assert "4 rows" in run("export", at, tmp_path / "first.jsonl", "--version", 1).err
    matches = json.loads(run("explain", at, "Who makes honey?", "-k", "1", "--json").out)
    assert {match["document_id"] for match in matches} == {"bees"}
    assert "honey" in run("explain", at, "Who makes honey?", "-k", "1").out
    (tmp_path / "questions.jsonl").write_text(
        '{"id": "q1", "text": "Who makes honey?"}\n{"id": "q2", "text": "Barks?"}\n'
    )
    answers = json.loads(run("batch-search", at, tmp_path / "questions.jsonl", "-k", "1", "--json").out)
    assert [(one["id"], one["hits"][0]["document_id"]) for one in answers] == [("q1", "bees"), ("q2", "dogs")]
    assert "q2: Barks?" in run("batch-search", at, tmp_path / "questions.jsonl").out


def test_every_command_names_its_twin_in_python() -> None:
    """One line of its help."""
    commands = typer.main.get_command(app).commands
    commands = {**commands, **commands["keys"].commands}
    del commands["keys"]
    assert {"search", "sync", "gc", "explain", "revoke"} <= set(commands)
    assert [name for name, command in commands.items() if "In Python: " not in command.help] == []

"""The command line as people and programs meet it: messages, JSON and exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from prefect.settings import PREFECT_API_URL, temporary_settings

from colonnade import terminal
from flows.summary import Summary
from index_format.index import Index
from tests.colonnade.command import Run, runner
from tests.strategies import add, make_recipe


@pytest.fixture
def run(prefect_here, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """With a Prefect of its own."""
    return runner(monkeypatch, capfd)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Three good rows and one bad one."""
    path = tmp_path / "animals.csv"
    path.write_text('id,text,year\nbees,"Bees make honey, mostly.",2001\ncats,Cats sleep all day.,2002\nempty,,2003\n')
    return path


def test_build_search_add_delete_and_inspect_work_together(run: Run, source: Path, tmp_path: Path) -> None:
    """The session of a new user, every command with exit code 0."""
    index = tmp_path / "index"
    more = tmp_path / "more.jsonl"
    more.write_text('{"id": "dogs", "text": "Dogs bark at strangers."}\n')

    built = json.loads(run("build", source, index, "--json").out)
    assert (built["version"], built["added"], built["rejected"]) == (1, 2, 1)
    assert json.loads(run("add", more, index, "--json").out)["added"] == 1
    found = json.loads(run("search", index, "Which animal makes honey?", "-k", "2", "--json").out)
    assert found["version"] == 2
    assert found["hits"][0]["document_id"] == "bees"
    assert found["hits"][0]["metadata"] == {"year": 2001}
    later = '{"op": ">", "column": "year", "value": 2001}'
    hybrid = json.loads(run("search", index, "honey", "--hybrid", "weight", "--weight", "0.3", "--json").out)
    assert hybrid["hits"][0]["fused"]["bm25_rank"] == 1
    assert "MaxSim" in run("search", index, "honey", "--hybrid", "rank").out
    narrowed = json.loads(run("search", index, "Which animal makes honey?", "--where", later, "--json").out)
    assert [hit["document_id"] for hit in narrowed["hits"]] == ["cats"]
    assert json.loads(run("delete", index, "bees", "--json").out)["deleted"] == 1
    described = json.loads(run("inspect", index, "--json").out)
    assert (described["version"], described["documents"]) == (3, 2)
    operations = [row["operation"] for row in json.loads(run("versions", index, "--json").out)]
    assert operations == ["delete", "add", "build"]


def test_what_people_read_names_the_outcome(run: Run, source: Path, tmp_path: Path) -> None:
    """Without --json: a summary with counts and the first reasons, hits with title, place and text."""
    index = tmp_path / "index"
    built = run("build", source, index)
    assert built.code == 0
    assert "version 1 published" in built.err
    assert "row 3: the text is empty" in built.err
    again = run("build", source, index)
    assert "version 1 is current" in again.err
    hits = run("search", index, "honey")
    assert "bees" in hits.out
    assert "Bees make honey, mostly." in hits.out


def test_rows_set_aside_are_listed_on_request(run: Run, source: Path, tmp_path: Path) -> None:
    """At once with --list-rejected, and later from the version that they were set aside for."""
    built = json.loads(run("build", source, tmp_path / "index", "--list-rejected", "--json").out)
    later = json.loads(run("inspect", tmp_path / "index", "--rejected", "--json").out)
    assert built["rejected_rows"] == later
    assert [(row["row"], row["id"], row["reason"]) for row in later] == [(3, "empty", "the text is empty")]


def test_a_source_of_bad_rows_alone_lists_them_and_fails(run: Run, tmp_path: Path) -> None:
    """The reasons on stdout when asked for, the summary of them on stderr, exit code 3."""
    (tmp_path / "bad.jsonl").write_text('{"id": "a", "text": ""}\n{"text": "no id"}\n')
    outcome = run("build", tmp_path / "bad.jsonl", tmp_path / "index", "--list-rejected", "--json")
    assert outcome.code == 3
    assert [row["reason"] for row in json.loads(outcome.out)] == ["the text is empty", "the id is missing"]
    assert "2 of 2 rows set aside" in outcome.err


def test_documents_to_delete_are_told_by_a_file_or_a_filter_too(run: Run, source: Path, tmp_path: Path) -> None:
    """One id a line; or what the metadata says, where a column that is not there is a mistake."""
    run("build", source, tmp_path / "index")
    (tmp_path / "ids.txt").write_text("bees\n\n")
    assert run("delete", tmp_path / "index", "--ids-file", tmp_path / "ids.txt").code == 0
    assert Index.at(tmp_path / "index").current().documents == 1
    later = '{"op": ">=", "column": "%s", "value": 2002}'
    mistaken = run("delete", tmp_path / "index", "--where", later % "yaer")
    assert (mistaken.code, "There is 'id', 'year'" in mistaken.err) == (3, True)
    deleted = json.loads(run("delete", tmp_path / "index", "--where", later % "year", "--json").out)
    assert (deleted["deleted"], deleted["seen"], deleted["version"]) == (1, 1, 3)
    again = json.loads(run("delete", tmp_path / "index", "--where", later % "year", "--json").out)
    assert (again["deleted"], again["version"]) == (0, 3)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["build", "nowhere.csv", "new"], 3, "nowhere.csv: there is no such file or folder."),
        (["build", "animals.csv", "new", "--bits", "5"], 3, "bits: Input should be 1, 2, 4 or 8, got 5."),
        (["build", "animals.csv", "new", "--id-column", "key"], 3, "there is no column 'key' for the document's id"),
        (["build", "animals.csv", "new", "--encoder", "gone"], 3, "'gone' was not found"),
        (["build", "animals.csv", "animals.csv"], 3, "is a file: an index lives in a directory"),
        (["build", "animals.csv", "ftp://there/index"], 3, "an index lives in a directory or at s3://"),
        (["build", "a\0b", "new"], 3, "Cannot open 'a\\x00b': it holds a NUL character"),
        (["build", "animals.csv", "a\0b"], 3, "Cannot open 'a\\x00b': it holds a NUL character"),
        (["inspect", "a\0b"], 3, "Cannot open 'a\\x00b': it holds a NUL character"),
        (["add", "animals.csv", "nothing"], 4, "There is no index at"),
        (["search", "nothing", "a query"], 4, "There is no index at"),
        (["serve", "nothing"], 4, "There is no index at"),
        (["inspect", "nothing"], 4, "There is no index at"),
        (["verify", "nothing"], 4, "There is no index at"),
        (["doctor", "animals.csv"], 3, "is a file: an index lives in a directory"),
        (["delete", "nothing", "--ids-file", "latin.txt"], 3, "--ids-file: it is not UTF-8"),
        (["delete", "nothing"], 3, "Name the documents to delete"),
        (["delete", "nothing", "a", "--where", "{}"], 3, "Name the documents to delete"),
        (["delete", "nothing", "--where", "year = 1"], 3, "filter: expected JSON such as"),
        (["serve", "nothing", "--host", "0.0.0.0"], 3, "add --insecure"),
        (["serve", "nothing", "--keys", "animals.csv"], 4, "There is no index at"),
        (["serve", "nothing", "--tls-key", "animals.csv"], 3, "give both, or neither"),
        (["keys", "list", "none.json"], 3, "Make a key with: colonnade keys make none.json"),
        (["keys", "make", "new.json", "--scope", "all"], 3, "--scope: name at least one of search, write, admin"),
        (["keys", "make", "animals.csv"], 3, "animals.csv: not a file of keys"),
        (["search", "nothing"], 2, "Missing argument 'QUERY'"),
        (["search", "nothing", "query", "-k", "0"], 2, "Invalid value for '-k'"),
    ],
)
def test_a_mistake_gets_one_message_that_says_what_to_do(
    run: Run, source: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, message: str
) -> None:
    """No trace, the documented exit code, and nothing left behind."""
    monkeypatch.chdir(source.parent)
    Path("latin.txt").write_bytes(b"caf\xe9\n")
    outcome = run(*arguments)
    assert outcome.code == code
    assert message in " ".join(outcome.err.replace("│", " ").split())
    assert "Traceback" not in outcome.err
    assert outcome.out == ""
    assert not (source.parent / "new").exists()


def test_a_damaged_index_is_named_with_its_file_and_not_searched(run: Run, source: Path, tmp_path: Path) -> None:
    """One flipped byte in the codes: exit code 4, the file, and what to do."""
    run("build", source, tmp_path / "index")
    codes = next((tmp_path / "index").rglob("codes.npz"))
    data = bytearray(codes.read_bytes())
    data[-200] ^= 1
    codes.write_bytes(data)
    outcome = run("search", tmp_path / "index", "honey")
    assert outcome.code == 4
    assert "codes.npz: expected SHA-256" in outcome.err
    assert "Restore the file or rebuild." in outcome.err


def test_verify_lists_each_fault_and_ends_with_the_code_of_damage(run: Run, tmp_path: Path) -> None:
    """A sound index: code 0 and an empty list. A damaged one: code 4, and each fault with file, row and repair."""
    index = Index.at(tmp_path / "index")
    add(index, make_recipe(index), {"a": "harbour lantern", "b": "ember"})
    assert run("verify", tmp_path / "index", "--all", "--json")[:2] == (0, "[]\n")
    (tmp_path / "index" / index.current().segments[0].codes_file.key).unlink()
    outcome = run("verify", tmp_path / "index", "--json")
    (fault,) = json.loads(outcome.out)
    assert outcome.code == 4
    assert fault["file"].endswith("codes.npz")
    assert list(fault) == ["version", "file", "row", "problem", "repair"]
    assert "1 faults" in outcome.err
    assert "codes.npz" in run("verify", tmp_path / "index").out


def test_the_doctor_tells_a_store_that_keeps_its_promises(run: Run, tmp_path: Path) -> None:
    """Every promise held, code 0, and nothing left but an empty folder."""
    outcome = run("doctor", tmp_path / "index", "--json")
    assert outcome.code == 0
    assert all(finding["held"] for finding in json.loads(outcome.out))
    assert not [path for path in (tmp_path / "index").rglob("*") if path.is_file()]
    assert "never overwritten" in run("doctor", tmp_path / "index").out


def test_an_index_from_the_future_is_refused_kindly(run: Run, source: Path, tmp_path: Path) -> None:
    """A newer format is "upgrade", not "corrupt"."""
    run("build", source, tmp_path / "index")
    manifest = next((tmp_path / "index" / "manifests").iterdir())
    manifest.write_text(manifest.read_text().replace('"format_version": 1', '"format_version": 2'))
    outcome = run("search", tmp_path / "index", "honey")
    assert outcome.code == 4
    assert "Upgrade Colonnade" in outcome.err


@pytest.mark.parametrize(
    "command",
    ["build", "add", "sync", "reindex", "eval", "delete", "search", "serve", "inspect", "verify", "doctor", "demo"],
)
def test_every_command_explains_itself(run: Run, command: str) -> None:
    """`--help` of each command has a description and a help text for each of its options."""
    outcome = run(command, "--help")
    assert outcome.code == 0
    assert len(outcome.out.splitlines()) > 10


@pytest.mark.parametrize(
    ("command", "default"),
    [
        ("build", "1, 2, 4 or 8 [default: (4)]"),
        ("build", "[default: (what the encoder takes)]"),
        ("search", "[default: (the index's own; 'embedded' for a new one)]"),
        ("inspect", "A version [default: (the current one)]"),
        ("delete", "[ID]..."),
    ],
)
def test_help_tells_what_holds_where_an_option_is_not_given(run: Run, command: str, default: str) -> None:
    """Brackets are not taken for a style."""
    assert default in " ".join(run(command, "--help").out.replace("│", " ").split())


def test_what_users_wrote_is_printed_as_they_wrote_it(capfd: pytest.CaptureFixture[str]) -> None:
    """Brackets are no styles, and names between colons no pictures."""
    odd = "see [/b] there, [note] :smile:"
    terminal.print_rows([{"text [x]": odd}], False)
    terminal.print_description({"index": odd})
    terminal.print_summary(Summary(odd, 3, True, warnings=[odd]))
    out, err = capfd.readouterr()
    assert out.count(odd) == 2
    assert "text [x]" in out
    assert err.count(odd) == 2


def test_a_number_that_json_lacks_is_null(capfd: pytest.CaptureFixture[str]) -> None:
    """Wherever it stands."""
    terminal.print_json({"a": [float("nan"), 1.5, {"b": float("-inf")}]})
    assert json.loads(capfd.readouterr().out) == {"a": [None, 1.5, {"b": None}]}


def test_keys_are_made_listed_and_revoked(run: Run, tmp_path: Path) -> None:
    """A key is printed once; the list shows whose it is and not the key."""
    file = tmp_path / "keys.json"
    made = json.loads(run("keys", "make", file, "--name", "page", "--json").out)
    more = run("keys", "make", file, "--scope", "write", "--scope", "admin", "--days", 30).out.strip()
    listed = json.loads(run("keys", "list", file, "--json").out)
    assert [one["scopes"] for one in listed] == ["search", "write, admin"]
    assert (listed[0]["name"], listed[0]["id"]) == ("page", made["id"])
    assert not {made["key"], more} & set(file.read_text().split('"'))
    assert run("keys", "revoke", file, made["id"]).code == 0
    assert [one["id"] for one in json.loads(run("keys", "list", file, "--json").out)] == [listed[1]["id"]]
    assert "has no key" in run("keys", "revoke", file, made["id"]).err


def test_answering_never_loads_prefect() -> None:
    """`serve` and `search` start without the orchestration."""
    code = "import sys, colonnade.cli, colonnade.server, serving.http.app; sys.exit('prefect' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("command", ["build", "add", "sync"])
def test_a_missing_source_is_told_before_prefect_is_loaded(command: str, tmp_path: Path) -> None:
    """The likeliest mistake costs no seconds."""
    code = f"""
import sys
from colonnade import cli
sys.argv = ["colonnade", "{command}", "nowhere.csv", "index"]
try:
    cli.main()
finally:
    print("prefect" in sys.modules)
"""
    told = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (told.returncode, told.stdout.strip()) == (3, "False")
    assert told.stderr == "colonnade: nowhere.csv: there is no such file or folder.\n"


def test_a_prefect_server_that_is_named_and_not_there_is_told(source: Path, tmp_path: Path) -> None:
    """As when it was stopped, and the variable stayed."""
    command = [Path(sys.executable).with_name("colonnade"), "build", source, tmp_path / "index"]
    named = os.environ | {"PREFECT_API_URL": "http://127.0.0.1:9/api"}
    told = subprocess.run(command, env=named, capture_output=True, text=True, check=False, timeout=200)
    assert told.returncode == 5
    assert "Prefect's server at http://127.0.0.1:9/api does not answer" in told.stderr
    assert not (tmp_path / "index").exists()


def test_a_temporary_server_that_does_not_start_is_told_without_a_trace(
    run: Run, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine with no time for it: what to do, and no index."""

    def too_slow(**_options: object) -> None:
        raise RuntimeError("Timed out while attempting to connect to ephemeral Prefect API server.")

    monkeypatch.setattr("prefect.get_client", too_slow)
    with temporary_settings(restore_defaults={PREFECT_API_URL}):  # the tests' own server is named there
        outcome = run("build", source, tmp_path / "index")
    assert (outcome.code, "Traceback" in outcome.err) == (5, False)
    assert "did not start (Timed out" in outcome.err
    assert "PREFECT_API_URL" in outcome.err
    assert not (tmp_path / "index").exists()


def test_the_help_begins_with_what_a_newcomer_needs(run: Run) -> None:
    """Commands stand in groups, and none is left out of them."""
    told = run("--help").out
    places = [told.index(f"│ {command} ") for command in ("demo", "build", "search", "serve", "add", "doctor", "keys")]
    assert places == sorted(places)
    assert "─ Commands ─" not in told


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("command", [["search", "QUERY"], ["serve"]])
def test_a_gpu_that_is_not_there_is_wrong_input(run: Run, tmp_path: Path, command: list[str]) -> None:
    """Asked for by name, it is refused before anything is loaded; `auto` is the default and takes the processor."""
    index = Index.at(tmp_path / "index")
    add(index, make_recipe(index), {"a": "harbour lantern"})
    refused = run(command[0], tmp_path / "index", *command[1:], "--device", "cuda")
    assert (refused.code, "torch finds no GPU here" in refused.err) == (3, True)

"""The commands that look after an index, as people and programs meet them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from index_format.index import Index
from tests.colonnade.command import Run, runner
from tests.strategies import Recipe, add, delete, live_texts, make_recipe


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """These commands need no Prefect."""
    return runner(monkeypatch, capfd)


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of ten versions: eight documents in eight segments, one replaced, one deleted."""
    place = tmp_path_factory.mktemp("made") / "index"
    index = Index.at(place)
    recipe: Recipe = make_recipe(index)
    add(index, recipe, {"0": "harbour lantern"})
    for number in range(1, 8):
        add(index, recipe, {str(number): "harbour lantern"})
    add(index, recipe, {"0": "ember"})
    delete(index, "1")
    time.sleep(0.002)
    return place


@pytest.fixture
def place(made_once: Path, tmp_path: Path) -> Path:
    """A copy of it for one test."""
    return shutil.copytree(made_once, tmp_path / "index")


def test_versions_are_listed_newest_first_with_what_made_them(run: Run, place: Path) -> None:
    """And with their tags."""
    assert run("tag", place, "good", "--version", 8).code == 0
    rows = json.loads(run("versions", place, "--json").out)
    assert [row["version"] for row in rows] == list(range(11, 0, -1))
    assert [row["operation"] for row in rows[:3]] == ["tag", "delete", "add"]
    assert [row["version"] for row in rows if row["tags"] == "good"] == [8]
    assert "good" in run("versions", place).out


def test_compact_joins_segments_and_says_what_it_did(run: Run, place: Path) -> None:
    """The documents stay the same."""
    before = live_texts(Index.at(place))
    outcome = run("compact", place, "--alike", 2)
    assert (outcome.code, outcome.out) == (0, "")
    assert "version 11, 7 segments before, 2 now" in outcome.err
    assert live_texts(Index.at(place)) == before
    again = json.loads(run("compact", place, "--json").out)
    assert (again["version"], again["rewritten"], again["segments_after"]) == (11, 0, 2)


def test_rollback_takes_a_number_or_a_tag(run: Run, place: Path) -> None:
    """A rollback to what is there publishes nothing."""
    run("tag", place, "good", "--version", 8)
    made = json.loads(run("rollback", place, "good", "--json").out)
    assert (made["version"], made["published"], made["documents"], made["tags"]) == (12, True, 8, {"good": 8})
    outcome = run("rollback", place, "8")
    assert "version 12 is current, nothing changed" in outcome.err
    assert "version 13 published" in run("rollback", place, 1).err


def test_a_tag_is_removed_by_name(run: Run, place: Path) -> None:
    """Without --version it names the current one."""
    assert json.loads(run("tag", place, "good", "--json").out)["tags"] == {"good": 10}
    assert json.loads(run("tag", place, "good", "--remove", "--json").out)["tags"] == {}


def test_gc_lists_what_it_would_delete_and_deletes_only_when_told(run: Run, place: Path) -> None:
    """The list is the same; afterwards the current version is there, and the older ones are not."""
    index = Index.at(place)
    run("compact", place, "--alike", 2)
    time.sleep(0.002)
    before = index.store.list("")
    dry = run("gc", place, "--keep-versions", 1, "--keep-days", 0)
    assert "would be deleted; --delete does it" in dry.err
    assert index.store.list("") == before
    listed = json.loads(run("gc", place, "--keep-versions", 1, "--keep-days", 0, "--json").out)
    assert (listed["deleted"], listed["bytes"]) == (False, sum(listed["sizes"].values()))
    assert all(key in dry.out for key in listed["sizes"])
    wet = run("gc", place, "--keep-versions", 1, "--keep-days", 0, "--delete")
    assert wet.err.splitlines()[-1].endswith("bytes deleted")
    assert set(before) - set(index.store.list("")) == set(listed["sizes"])
    assert index.versions() == [11, 12]


def test_gc_keeps_ten_versions_and_a_week_by_default(run: Run, place: Path) -> None:
    """On a young index there is nothing to do."""
    assert "0 objects" in run("gc", place, "--delete").err
    assert Index.at(place).versions() == list(range(1, 11))


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["versions", "nothing"], 4, "There is no index at"),
        (["compact", "nothing"], 4, "There is no index at"),
        (["gc", "nothing"], 4, "There is no index at"),
        (["gc", "nothing", "--delete"], 4, "There is no index at"),
        (["rollback", "nothing", "1"], 4, "There is no index at"),
        (["tag", "nothing", "good"], 4, "There is no index at"),
        (["rollback", "index", "99"], 4, "does not retain version 99; it has 1 to 10"),
        (["rollback", "index", "best"], 3, "neither a version nor a tag"),
        (["tag", "index", "7"], 3, "no name for a tag"),
        (["tag", "index", "good", "--remove"], 3, "has no tag 'good'"),
        (["gc", "index", "--keep-versions", "0"], 2, "Invalid value for '--keep-versions'"),
    ],
)
def test_a_mistake_gets_one_message_that_says_what_to_do(
    run: Run, place: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, message: str
) -> None:
    """No trace, the documented exit code, and nothing left behind."""
    monkeypatch.chdir(place.parent)
    outcome = run(*arguments)
    assert outcome.code == code
    assert message in " ".join(outcome.err.replace("│", " ").split())
    assert "Traceback" not in outcome.err
    assert not (place.parent / "nothing").exists()


@pytest.mark.parametrize("command", ["versions", "compact", "rollback", "tag", "gc"])
def test_every_command_explains_itself(run: Run, command: str) -> None:
    """`--help` of each command has a description and a help text for each of its options."""
    outcome = run(command, "--help")
    assert outcome.code == 0
    assert len(outcome.out.splitlines()) > 10


def test_looking_after_an_index_never_loads_prefect(place: Path) -> None:
    """Nor a model: these commands are for scripts and machines without either."""
    code = (
        "import sys\nfrom colonnade import cli\nsys.argv[1:] = ['versions', sys.argv[1]]\n"
        "try:\n    cli.main()\nexcept SystemExit:\n    pass\n"
        "sys.exit('prefect' in sys.modules or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(place)], check=False, timeout=120).returncode == 0

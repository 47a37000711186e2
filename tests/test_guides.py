"""The guides of docs/: every block is run as it is printed, on one index that they share."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from encoding.checkpoint import EMBEDDED
from encoding.encoder import load_encoder
from index_format.index import Index
from serving.http.app import make_app
from serving.search import Hit
from serving.searcher import Searcher
from tests.colonnade.command import runner
from tests.colonnade.test_serve import make_certificate
from tests.prefect_server import PROJECT
from tests.serving.running import running
from tests.test_readme import free_port, shell

DOCS = PROJECT / "docs"
IMPORTED = PROJECT / "tests" / "imports" / "golden"


def blocks(page: str) -> list[tuple[str, str]]:
    """The language and the text of all blocks of a page, in order."""
    return re.findall(r"```(bash|python)\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), flags=re.DOTALL)


class Session:
    """A terminal in a folder: `colonnade` runs in this process, all else in a shell, Python in one interpreter."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
        self._run, self._capfd = runner(monkeypatch, capfd), capfd
        self.names: dict[str, Any] = {}

    def follow(self, page: str) -> str:
        """Run all blocks of a page; returns what they printed."""
        return "".join(self.python(text) if kind == "python" else self.bash(text) for kind, text in blocks(page))

    def python(self, text: str) -> str:
        """Run a block of Python."""
        exec(compile(text, "guide", "exec"), self.names)
        return self._capfd.readouterr().out

    def bash(self, text: str) -> str:
        """Run the commands of a block."""
        printed = ""
        for command in re.split(r"^(?=colonnade )", text, flags=re.MULTILINE):
            if not command.startswith("colonnade "):
                subprocess.run(["bash", "-e", "-c", command], check=True)
                continue
            done = self._run(*shlex.split(command, comments=True)[1:])
            assert done.code == 0, f"{command}: {done.err}"
            printed += done.out
        return printed


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Session:
    """Begins in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return Session(monkeypatch, capfd)


@pytest.mark.slow
def test_the_guides_of_a_first_index_its_format_and_its_server_run_as_printed(
    prefect_here: None, session: Session, tmp_path: Path
) -> None:
    """One after the other, on the index that the first one builds."""
    printed = session.follow("guides/first-index.md")
    assert "tea Green tea is not fermented." in printed
    index = Index.at(tmp_path / "notes-index")
    assert '"title":"Bread"' in (tmp_path / "notes-again.jsonl").read_text()
    assert (index.versions(), index.current().documents) == ([1, 2, 3, 4, 5], 3)

    session.follow("guides/format.md")
    best = session.names["best"]
    first: Hit = session.names["hits"][0]
    assert best == (first.document_id, first.text)
    assert session.names["scores"][best] == pytest.approx(first.score, rel=0.01)

    (_, start), (_, ask) = blocks("server.md")
    make_certificate(tmp_path)
    keys, serve = start.splitlines()
    session.bash(keys)
    ready = "https://127.0.0.1:8443/health/ready"
    wait = f"curl --silent --insecure --fail --retry 120 --retry-delay 1 --retry-all-errors {ready}"
    assert "3 documents" in shell(f"{serve}\n{wait}".replace("8443", free_port()), tmp_path)
    searcher = Searcher(index, load_encoder(EMBEDDED))
    with running(make_app(searcher, str(tmp_path))) as address:
        assert first.text in session.python(ask.replace("http://127.0.0.1:8080", address))


def test_the_guide_for_those_who_come_from_another_package_runs_as_printed(session: Session, tmp_path: Path) -> None:
    """With indexes that those packages wrote."""
    shutil.copytree(IMPORTED / "checkpoint", "checkpoint")
    shutil.copytree(IMPORTED / "ragatouille", ".ragatouille/colbert/indexes/my-index")
    shutil.copytree(IMPORTED / "colbert", "colbert-index")
    shutil.copytree(IMPORTED / "fast-plaid-1.7", "fast-plaid-index")
    shutil.copy(IMPORTED / "collection.tsv", ".")

    printed = session.follow("guides/moving-in.md")

    assert "22 documents, 22 passages" in printed
    counts = {name: Index.at(tmp_path / name).current().documents for name in ("my-index", "from-colbert")}
    assert counts == {"my-index": 24, "from-colbert": 24}
    assert session.names["RAG"].search("heron", k=2)[0]["document_id"] in {"heron", "lantern"}

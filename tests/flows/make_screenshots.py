"""The pictures of the Prefect UI in docs/, taken anew: `python -m tests.flows.make_screenshots`, of a build of the
demo's text by a worker of a real server."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from colonnade.demo_corpus import write_corpus
from tests.browser import Page, browser
from tests.flows.test_deployments import VARIABLES, ask, begin, deployments, ended, worker
from tests.prefect_server import PROJECT, PrefectServer, prefect_server

DOCS = PROJECT / "docs"
DOCUMENTS = 400  # of the demo's: some seconds of encoding
SIZE = (1280, 1000)
MOST_BYTES = 250_000
_STILL_SECONDS = 1.5  # without a change until a picture counts as still: nothing in the UI fades for longer
_PATIENCE = 60.0
_ARTIFACTS = "[...document.querySelectorAll('li')].filter(one => one.innerText.trim() == 'Artifacts')"  # their tab
# Animations that never end, such as a dot that beats while there are workers.
_ENDLESS = "document.getAnimations().filter(one => one.effect.getTiming().iterations === Infinity)"


def main() -> None:
    """The page of a build with its artifacts, the table of what it did, and the form of a sync."""
    with (
        tempfile.TemporaryDirectory(prefix="demo-", ignore_cleanup_errors=True) as folder,
        _built(Path(folder)) as (server, run),
        browser(Path(folder) / "profile") as page,
    ):
        take_all(page, server, run)


def take_all(page: Page, server: PrefectServer, run: str) -> None:
    """Write the pictures of a build that is completed, in light colours."""
    wanted = {"artifacts": {"key": {"any_": ["summary"]}, "flow_run_id": {"any_": [run]}}}
    (summary,) = ask(server, "/artifacts/filter", wanted)
    sync = deployments(server)["sync_index"]["id"]
    ui = server.api.removesuffix("/api")
    page.look_like(*SIZE)
    page.open(ui)
    page.wait_for("document.body.innerText.includes('Dashboard')")
    page.value("localStorage.setItem('color-scheme', JSON.stringify('light'))")
    page.open(f"{ui}/runs/flow-run/{run}")
    page.wait_for(f"{_ARTIFACTS}.length")
    page.value(f"{_ARTIFACTS}[0].click()")
    page.wait_for("document.body.innerText.includes('What this run did')")
    _take(page, "run")
    page.open(f"{ui}/artifacts/artifact/{summary['id']}")
    page.wait_for("document.body.innerText.includes('tokens a second: encode')")
    _take(page, "artifacts")
    page.open(f"{ui}/deployments/deployment/{sync}/run")
    page.wait_for("document.body.innerText.includes('Where the documents are')")
    _take(page, "form")


@contextmanager
def _built(folder: Path) -> Iterator[tuple[PrefectServer, str]]:
    """A server with all deployments and a worker, and the id of a build that is completed."""
    write_corpus(folder / "docstrings.parquet", DOCUMENTS)
    (folder / "home").mkdir()
    with prefect_server(folder / "home") as server:
        server.prefect("work-pool", "create", "colonnade", "--type", "process")
        for name, value in VARIABLES.items():
            server.prefect("variable", "set", name, value)
        server.prefect("deploy", "--all")
        with worker(server, folder / "worker.log"):
            source = {"location": str(folder / "docstrings.parquet")}
            run = begin(server, "build_index", source=source, index=str(folder / "index"))
            states = ended(server, run)
            assert states == ["COMPLETED"], (states, (folder / "worker.log").read_text())
            yield server, run


def _take(page: Page, name: str) -> None:
    """Write a picture of the page once nothing in it moves any more."""
    deadline = time.monotonic() + _PATIENCE
    seen, since = b"", time.monotonic()
    while time.monotonic() - since < _STILL_SECONDS:
        assert time.monotonic() < deadline, f"{name}: the page does not come to rest"
        time.sleep(0.1)
        page.value(f"{_ENDLESS}.forEach(one => one.cancel())")
        now = page.screenshot()
        if now != seen:
            seen, since = now, time.monotonic()
    assert len(seen) <= MOST_BYTES, f"{name}: {len(seen)} bytes"
    (DOCS / f"{name}.png").write_bytes(seen)


if __name__ == "__main__":
    main()

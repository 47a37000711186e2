"""The search page in a real browser."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn

from encoding.checkpoint import EMBEDDED
from encoding.encoder import load_encoder
from flows.build_index import build_index
from flows.parameters import BuildParameters
from index_format.index import Index
from serving.app import make_app
from serving.searcher import Searcher
from tasks.rows import Source
from tests.chromium import CHROMIUM, open_page

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")]


@pytest.fixture
def address(prefect_here, tmp_path: Path) -> Iterator[str]:
    """A server over two documents, one of them hostile."""
    (tmp_path / "docs.jsonl").write_text(
        '{"id": "bees", "title": "On <b>bees</b>", "text": "Bees make honey. <script>document.title=1</script>"}\n'
        '{"id": "cats", "text": "Cats sleep all day."}\n'
    )
    source = Source(location=str(tmp_path / "docs.jsonl"))
    build_index(BuildParameters(source=source, index=str(tmp_path / "index")))
    index = Index.at(tmp_path / "index")
    app = make_app(Searcher(index, load_encoder(EMBEDDED)), index.address)
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        thread.join(0.05)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(10)


def test_the_page_describes_the_index(address: str, tmp_path: Path) -> None:
    """Before any question it says what can be asked of."""
    assert "2 documents, 2 passages, version 1" in open_page(address, tmp_path / "profile")


def test_the_page_shows_hits_as_text_and_never_as_markup(address: str, tmp_path: Path) -> None:
    """A question in the address is asked at once; what documents contain is shown, not run."""
    page = open_page(f"{address}/?q=who+makes+honey", tmp_path / "profile")
    assert "2 passages from version 1" in page
    assert "1. On &lt;b&gt;bees&lt;/b&gt;" in page
    assert "Bees make honey. &lt;script&gt;" in page
    assert "<title>Colonnade</title>" in page

"""The pictures in docs/, taken anew: `python -m tests.serving.make_screenshots INDEX`, of the demo's index."""

from __future__ import annotations

import sys
import tempfile
import urllib.parse
from pathlib import Path

from encoding.encoder import load_encoder_of
from index_format.index import Index
from serving.searcher import Searcher
from tests.browser import browser
from tests.serving.test_page import serving

DOCS = Path(__file__).parents[2] / "docs"
QUESTION = "make a temporary folder that is deleted afterwards"


def main(address: str) -> None:
    """A light screen, and a dark phone."""
    index = Index.at(address)
    searcher = Searcher(index, load_encoder_of(index.current().encoder, None))
    with (
        serving(searcher) as running,
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile,
        browser(Path(profile)) as page,
    ):
        for name, look in (("light", (900, 720, False, False)), ("phone", (390, 780, True, True))):
            width, height, phone, dark = look
            page.look_like(width, height, phone=phone, dark=dark)
            page.open(f"{running}/?{urllib.parse.urlencode({'q': QUESTION})}")
            page.wait_for("document.querySelectorAll('#hits li').length > 0")
            (DOCS / f"page-{name}.png").write_bytes(page.screenshot())


if __name__ == "__main__":
    main(sys.argv[1])

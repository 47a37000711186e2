"""What the routes work with, put together once by `make_app`."""

from __future__ import annotations

from dataclasses import dataclass

from serving.searcher import Searcher


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of a running server. address: the index's, as the user typed it."""

    searcher: Searcher
    address: str

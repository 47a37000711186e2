"""What tests of flows share: sources of documents, and questions to an index."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tasks.rows import Source

Write = Callable[..., Source]


@pytest.fixture
def write_texts(tmp_path: Path) -> Write:
    """Write documents, texts by id, as JSON Lines, the same file each time, and return the source."""

    def _write(texts: Mapping[str, str], *more: str) -> Source:
        lines = [json.dumps({"id": name, "text": text}) for name, text in texts.items()]
        path = tmp_path / "source.jsonl"
        path.write_text("\n".join([*lines, *more]) + "\n")
        return Source(location=str(path))

    return _write

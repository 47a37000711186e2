"""The flow that checks an index: it succeeds on a sound one, and fails by the first fault of another."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.parameters import VerifyParameters
from index_format.errors import IndexCorrupt
from index_format.index import Index
from tests.strategies import add, make_recipe


def test_a_damaged_index_fails_the_run(prefect_here, tmp_path: Path) -> None:
    """The error names how many faults there are, the file, and the repair."""
    from flows.verify_index import verify_index

    index = Index.at(tmp_path / "index")
    add(index, make_recipe(index), {"a": "harbour lantern"})
    verify_index(VerifyParameters(index=index.address, all_versions=True))
    (tmp_path / "index" / index.current().segments[0].passages_file.key).unlink()
    with pytest.raises(IndexCorrupt, match=r"1 faults.*passages\.parquet.*Restore"):
        verify_index(VerifyParameters(index=index.address))

"""The commands of docs/pipeline.md, run as they are printed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from index_format.index import Index
from tests.prefect_server import PROJECT, PrefectServer
from tests.strategies import live_texts
from tests.test_links import targets
from tests.test_readme import shell

GUIDE = PROJECT / "docs" / "pipeline.md"
LARGEST_PICTURE = 200_000


def test_the_guides_pictures_are_small() -> None:
    """So that the page comes at once."""
    pictures = [GUIDE.parent / target for target in targets(GUIDE) if target.endswith(".png")]
    assert pictures
    assert max(picture.stat().st_size for picture in pictures) < LARGEST_PICTURE


@pytest.mark.slow
def test_the_guides_commands_run_as_printed(server: PrefectServer, tmp_path: Path) -> None:
    """A sync, a reindex with questions, an evaluation beside the old version, and everything deployed."""
    documents, questions, deploy = re.findall(r"```bash\n(.*?)```", GUIDE.read_text(encoding="utf-8"), flags=re.DOTALL)
    for name in ("flows", "tasks", "serving", "encoding", "index_format", "prefect.yaml", "automations.yaml"):
        (tmp_path / name).symlink_to(PROJECT / name)
    # The session's server is there already, and perhaps its pool.
    started = "export PREFECT_API_URL=http://127.0.0.1:4200/api\nprefect server start &\n"
    assert started in deploy
    deploy = deploy.replace(started, "").replace("--type process", "--type process --overwrite")

    printed = shell(documents + questions + deploy, tmp_path, **server.environment)

    index = Index.at(tmp_path / "animals-index")
    assert (index.versions(), index.current().codec.bits) == ([1, 2, 3], 8)
    assert set(live_texts(index)) == {"bees", "cats"}
    assert re.search(r"nDCG@10 +1\.0 +1\.0 ", printed)
    assert "successfully created" in printed

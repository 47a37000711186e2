"""The links of all papers of the project: what they lead to is there, down to the heading."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from tests.prefect_server import PROJECT

BLOCK = re.compile(r"^```.*?^```", flags=re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`[^`\n]+`")
HEADING = re.compile(r"^#{1,6} +(.+)$", flags=re.MULTILINE)
TARGET = re.compile(r"\]\(([^)\s]+)\)|\bsrc=\"([^\"]+)\"")
ELSEWHERE = ("http://", "https://")


def papers() -> list[Path]:
    """All Markdown files that are in git, or would be; where there is no git, all that are not hidden."""
    listed = ["git", "-C", str(PROJECT), "ls-files", "--cached", "--others", "--exclude-standard", "*.md"]
    try:
        names = subprocess.run(listed, capture_output=True, text=True, check=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        found = (path.relative_to(PROJECT) for path in PROJECT.rglob("*.md"))
        names = [str(path) for path in found if not any(part.startswith(".") for part in path.parts)]
    return [PROJECT / name for name in sorted(names) if (PROJECT / name).exists()]


def targets(paper: Path) -> list[str]:
    """What a paper links to and shows, of what is not elsewhere."""
    found = TARGET.findall(CODE.sub("", _without_blocks(paper)))
    return [one for pair in found for one in pair if one and not one.startswith(ELSEWHERE)]


@cache
def anchors(paper: Path) -> frozenset[str]:
    """The names that GitHub gives to the headings of a paper: small letters, no marks, hyphens for blanks."""
    seen: Counter[str] = Counter()
    made = []
    for heading in HEADING.findall(_without_blocks(paper)):
        shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        name = re.sub(r"[^\w\- ]", "", shown).replace(" ", "-")
        made.append(f"{name}-{seen[name]}" if seen[name] else name)
        seen[name] += 1
    return frozenset(made)


def _without_blocks(paper: Path) -> str:
    return BLOCK.sub("", paper.read_text(encoding="utf-8"))


def is_dead(paper: Path, target: str) -> bool:
    """Whether a link of a paper leads nowhere."""
    path, _, anchor = target.partition("#")
    place = paper.parent / path if path else paper
    return not place.exists() or (anchor != "" and (place.suffix != ".md" or anchor not in anchors(place)))


@pytest.mark.parametrize("paper", papers(), ids=lambda path: str(path.relative_to(PROJECT)))
def test_what_a_paper_links_to_is_there(paper: Path) -> None:
    """Files, pictures, and headings."""
    assert [target for target in targets(paper) if is_dead(paper, target)] == []


def test_dead_links_are_seen_and_others_are_not(tmp_path: Path) -> None:
    """A heading that was renamed is as bad as a file that was; what stands in code is no link."""
    paper, other = tmp_path / "paper.md", tmp_path / "other.md"
    other.write_text("# On `k`, and [more](x.md)\n\n## Twice\n\n## Twice\n\n```bash\n# no heading\n```\n")
    live = ["other.md", "other.md#on-k-and-more", "other.md#twice", "other.md#twice-1", "#here"]
    dead = ["gone.md", "gone.png", "other.md#twice-2", "other.md#no-heading", "#there", "picture.svg#twice"]
    (tmp_path / "picture.svg").touch()
    links = "\n".join(f"[a]({target})" for target in [*live, *dead, "https://example.org/gone.md#x"])
    paper.write_text(f'# Here\n\n{links}\n`[a](gone.py)`\n\n```\n[a](gone.c)\n```\n<img src="gone.jpg">\n')
    assert [target for target in targets(paper) if is_dead(paper, target)] == [*dead, "gone.jpg"]

"""Pages in a real browser, without a window."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

CHROMIUM = shutil.which("chromium")
FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def open_page(address: str, profile: Path, *, milliseconds: int = 8000, picture: Path | None = None) -> str:
    """The page's document after its scripts have run for a while, with a picture of it where one is wanted."""
    command = [str(CHROMIUM), *FLAGS, f"--virtual-time-budget={milliseconds}", f"--user-data-dir={profile}"]
    if picture is not None:
        shot = [*command, "--window-size=1400,900", f"--screenshot={picture}", address]
        subprocess.run(shot, capture_output=True, timeout=90, check=True)
    return subprocess.run(
        [*command, "--dump-dom", address], capture_output=True, text=True, timeout=90, check=True
    ).stdout

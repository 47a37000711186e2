"""The package as others install it: sdist, wheel from the sdist, a clean environment, another folder."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from tests.prefect_server import PROJECT

PACKAGES = {"colonnade", "flows", "tasks", "serving", "encoding", "index_format"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel that was built from an sdist that was built from a copy of the project."""
    place = tmp_path_factory.mktemp("build")
    left_out = shutil.ignore_patterns(".*", "*.egg-info", "__pycache__", "dist")
    shutil.copytree(PROJECT, place / "project", ignore=left_out)
    build = [sys.executable, "-m", "build", "--outdir", str(place / "dist"), str(place / "project")]
    subprocess.run(build, check=True, capture_output=True, timeout=250)
    return next((place / "dist").glob("*.whl"))


@pytest.mark.slow
def test_the_sdist_holds_what_the_wheel_is_built_from_and_nothing_else(wheel: Path) -> None:
    """No tests, which would lack what they are about: benchmarks, documents, deployments."""
    (sdist,) = wheel.parent.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        top = {name.split("/")[1] for name in archive.getnames()}
    assert top == PACKAGES | {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "PKG-INFO"}


@pytest.mark.slow
def test_the_wheel_holds_the_packages_with_their_documents_and_pages_and_nothing_else(wheel: Path) -> None:
    """Six top-level packages, the page that is served, the specification, and the word that all have types."""
    names = zipfile.ZipFile(wheel).namelist()
    top = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert top == PACKAGES
    assert {"serving/static/index.html", "index_format/SPEC.md"} <= set(names)
    assert {f"{package}/py.typed" for package in PACKAGES} <= set(names)


@pytest.mark.slow
def test_an_installed_wheel_runs_from_any_folder(wheel: Path, tmp_path: Path) -> None:
    """A fresh environment with the wheel alone; the requirements are borrowed from this one, the project is not."""
    venv.create(tmp_path / "clean", with_pip=False)
    python = tmp_path / "clean" / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--quiet", str(wheel)]
    subprocess.run(install, check=True, capture_output=True, timeout=120)
    # A path in a .pth file adds that folder alone: editable installs in it are not followed.
    site = next((tmp_path / "clean" / "lib").glob("python*/site-packages"))
    (site / "requirements.pth").write_text(sysconfig.get_path("purelib"))
    (tmp_path / "elsewhere").mkdir()

    def run(*command: str) -> str:
        done = subprocess.run(command, cwd=tmp_path / "elsewhere", capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "Late-interaction search" in run(str(python.with_name("colonnade")), "--help")
    where = run(
        str(python), "-c", "import flows.build_index, serving.http.app; print(flows.__path__, serving.__path__)"
    )
    assert where.count(str(tmp_path / "clean")) == 2

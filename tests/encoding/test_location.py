"""Where an encoder may be: a bucket, and the Hugging Face hub; folders are test_checkpoint's matter."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from encoding.checkpoint import open_checkpoint
from index_format.errors import InputError
from index_format.store import open_store

GOLDEN = Path(__file__).parents[1] / "parity" / "golden" / "pylate-bert"


@pytest.fixture
def uploaded(fresh_s3_address: str) -> str:
    """A checkpoint in a bucket."""
    store = open_store(f"{fresh_s3_address}/models/small")
    for path in GOLDEN.rglob("*"):
        if path.is_file() and not path.name.startswith("golden-"):
            store.create(path.relative_to(GOLDEN).as_posix(), path.read_bytes())
    store.create("onnx/model.bin", b"not for us")
    store.create("README.md", b"not for us")
    return store.address


def test_an_encoder_in_a_bucket_is_the_one_in_the_folder(uploaded: str, own_cache_directory: Path) -> None:
    """The same fingerprint; its name is the address; it lies in the cache without what is not read."""
    there, here = open_checkpoint(uploaded + "/"), open_checkpoint(str(GOLDEN))
    assert (there.name, there.fingerprint) == (uploaded, here.fingerprint)
    assert there.folder.is_relative_to(own_cache_directory)
    names = {path.name for path in there.folder.rglob("*")}
    assert "model.safetensors" in names
    assert not names & {"README.md", "onnx"}


def test_a_bucket_without_a_model_is_told_from_one_that_cannot_be_read(fresh_s3_address: str) -> None:
    """Both name the address."""
    with pytest.raises(InputError, match=rf"there is no model at {fresh_s3_address}/nothing"):
        open_checkpoint(f"{fresh_s3_address}/nothing")
    with pytest.raises(InputError, match="s3://no-such-bucket-here/x"):
        open_checkpoint("s3://no-such-bucket-here/x")


@pytest.mark.parametrize(
    "name", ["", "s3://", "s3:///models", "~nobody-here/model", "a\0b", "x" * 5000, "owner/name@main", "http://a/b"]
)
def test_what_names_no_place_is_refused_with_the_places_there_are(name: str) -> None:
    """Nothing is looked for in a folder that happens to be called so."""
    with pytest.raises(InputError, match=r"was not found\. Name 'embedded', a folder, s3://bucket/prefix, or a model"):
        open_checkpoint(name)


@pytest.fixture
def hub_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The hub's own cache, empty, on a machine without a connection."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def test_a_model_of_the_hub_that_is_in_its_cache_needs_no_connection(hub_cache: Path) -> None:
    """Whoever fetched it: the cache is the one that all of Hugging Face's packages share."""
    place = hub_cache / "models--owner--small"
    shutil.copytree(GOLDEN, place / "snapshots" / "abc", ignore=shutil.ignore_patterns("golden-*"))
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("abc")
    checkpoint = open_checkpoint("owner/small")
    assert checkpoint.name == "owner/small"
    assert checkpoint.fingerprint == open_checkpoint(str(GOLDEN)).fingerprint


def test_a_hub_that_cannot_be_reached_is_said(hub_cache: Path) -> None:
    """With the name, and what to do without a connection."""
    with pytest.raises(InputError, match=r"'owner/model' is no folder here.*hub did not give it.*name its folder"):
        open_checkpoint("owner/model")

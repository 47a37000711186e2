"""Where an encoder may be: a bucket, and the Hugging Face hub; folders are test_checkpoint's matter."""

from __future__ import annotations

import os
import shutil
import time
import uuid
from pathlib import Path

import pytest
from huggingface_hub.utils import filter_repo_objects

from encoding.checkpoint import open_checkpoint
from encoding.location import locate
from index_format.errors import InputError
from index_format.store import MemoryStore, open_store

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


def test_what_a_bucket_lists_with_an_empty_part_is_left_out(
    monkeypatch: pytest.MonkeyPatch, own_cache_directory: Path, tmp_path: Path
) -> None:
    """Under `models//tmp/x.json` the store lists `/tmp/x.json`, which joined to a folder is a file outside it."""
    outside = tmp_path / "outside.json"
    store = MemoryStore()
    store.create("config.json", b"{}")
    for key in (str(outside), "a/../config.txt", "./config.txt"):
        store.create(key, b"written by the bucket")
    monkeypatch.setattr("encoding.location.open_store", lambda _: store)
    _, folder = locate(f"s3://bucket/{uuid.uuid4().hex}")
    assert [path.name for path in folder.rglob("*")] == ["config.json"]
    assert not outside.exists()


def test_a_copy_that_was_damaged_is_written_anew(monkeypatch: pytest.MonkeyPatch, own_cache_directory: Path) -> None:
    """And nothing is left of the files on their way."""
    store = MemoryStore()
    store.create("1_Dense/config.json", b"{}")
    monkeypatch.setattr("encoding.location.open_store", lambda _: store)
    _, folder = locate(f"s3://bucket/{uuid.uuid4().hex}")
    (folder / "1_Dense" / "config.json").write_bytes(b"?")
    _, again = locate(f"s3://bucket/{uuid.uuid4().hex}")
    assert again == folder
    assert (folder / "1_Dense" / "config.json").read_bytes() == b"{}"
    assert list(folder.parent.iterdir()) == [folder]


def test_what_a_killed_download_left_goes_after_a_day(
    monkeypatch: pytest.MonkeyPatch, own_cache_directory: Path
) -> None:
    """With the next download; one that may still be going on stays."""
    store = MemoryStore()
    store.create("config.json", b"{}")
    monkeypatch.setattr("encoding.location.open_store", lambda _: store)
    _, folder = locate(f"s3://bucket/{uuid.uuid4().hex}")
    left, going_on = (folder.parent / f"{name}.part" for name in ("left", "going-on"))
    for part in (left, going_on):
        (part / "1_Dense").mkdir(parents=True)
        (part / "1_Dense" / "config.json").write_bytes(b"{}")
    yesterday = time.time() - 90_000
    os.utime(left, (yesterday, yesterday))
    locate(f"s3://bucket/{uuid.uuid4().hex}")
    assert set(folder.parent.iterdir()) == {folder, going_on}


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


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The files of a model on the hub, which gives those that match what it is asked for."""
    repository, given = tmp_path / "repository", tmp_path / "given"
    shutil.copytree(GOLDEN, repository, ignore=shutil.ignore_patterns("golden-*"))

    def download(name: str, *, allow_patterns: list[str], ignore_patterns: list[str]) -> str:
        names = [path.relative_to(repository).as_posix() for path in repository.rglob("*") if path.is_file()]
        for one in filter_repo_objects(names, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns):
            (given / one).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(repository / one, given / one)
        return str(given)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    return repository


@pytest.mark.parametrize("pickled", [["."], ["1_Dense"], [".", "1_Dense"], []])
def test_each_module_of_a_model_of_the_hub_has_its_weights(hub: Path, pickled: list[str]) -> None:
    """The hub's converter makes safetensors of the transformer alone; and none are fetched twice."""
    for module in pickled:
        (hub / module / "model.safetensors").rename(hub / module / "pytorch_model.bin")
    for other in ("training_args.bin", "1_Dense/training_args.bin"):
        (hub / other).write_bytes(b"not for us")
    if "." not in pickled:
        (hub / "pytorch_model.bin").write_bytes(b"not for us: there are safetensors")
    _, folder = locate(f"owner/{uuid.uuid4().hex}")
    found = {
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.suffix in (".bin", ".safetensors")
    }
    wanted = {Path(one, "pytorch_model.bin" if one in pickled else "model.safetensors") for one in (".", "1_Dense")}
    assert found == {one.as_posix() for one in wanted}


def test_a_connection_that_breaks_below_the_hub_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its package lets errors of the one below through, which are of no kind that it names."""

    class Broken(Exception):
        """As httpx has it: neither OSError nor ValueError."""

    def download(*_: object, **_more: object) -> str:
        raise Broken("403 Forbidden")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    with pytest.raises(InputError, match=r"hub did not give it \(403 Forbidden\)"):
        locate(f"owner/{uuid.uuid4().hex}")


def test_a_hub_that_cannot_be_reached_is_said(hub_cache: Path) -> None:
    """With the name, and what to do without a connection."""
    with pytest.raises(InputError, match=r"'owner/model' is no folder here.*hub did not give it.*name its folder"):
        open_checkpoint("owner/model")

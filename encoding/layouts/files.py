"""The files that checkpoints are made of, whatever the layout: JSON settings, weights, special tokens."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from encoding.layouts.layout import Projection
from index_format.errors import InputError

CONFIG = "config.json"
TOKENIZER = "tokenizer.json"
WEIGHTS = "model.safetensors"
PICKLED_WEIGHTS = "pytorch_model.bin"
TRANSFORMER_SETTINGS = "sentence_bert_config.json"
MODEL_SETTINGS = "config_sentence_transformers.json"
MODULES = "modules.json"
ADAPTER = "adapter_config.json"

_POSITIONS = "max_position_embeddings"  # in its configuration; a few architectures have none
_USUAL_TOKENS = {"mask_token": ("[MASK]", "<mask>"), "eos_token": ("</s>",), "pad_token": ("[PAD]", "<pad>")}

Settings = dict[str, Any]

RUN_MODEL_CODE = "COLONNADE_RUN_MODEL_CODE"
"""Environment variable: "1" lets code that comes with a model run in this process, with all its rights."""


def model_code(folder: Path, config: Settings) -> list[Path]:
    """The files with code that a model brings along and that may run, sorted; none unless it was asked for.

    Raises InputError when it lies in another repository, where nobody could say which code that will be.
    """
    if not may_run_code() or not config.get("auto_map"):
        return []
    elsewhere = [one for one in config["auto_map"].values() if "--" in str(one)]
    if elsewhere:
        raise InputError(
            f"encoder: {folder / CONFIG} takes its code from another repository ({elsewhere[0]}). "
            "Copy that code into the folder, and name it there without the repository."
        )
    return sorted(folder.glob("*.py"))


def may_run_code() -> bool:
    """Whether code that comes with a model may run here."""
    return os.environ.get(RUN_MODEL_CODE) == "1"


def read_json(path: Path) -> Settings:
    """A JSON object. Raises InputError that says which file is wrong."""
    values = _load_json(path)
    if not isinstance(values, dict):
        raise InputError(f"encoder: {path} must hold a JSON object.")
    return values


def read_optional_json(path: Path) -> Settings:
    """A JSON object, or an empty one where there is no such file."""
    return read_json(path) if path.is_file() else {}


def read_modules(folder: Path) -> list[tuple[str, Path]]:
    """The modules of a sentence-transformers folder in order: the last part of the class name, and its folder."""
    listed = _load_json(folder / MODULES)
    try:
        ordered = sorted(listed, key=lambda module: int(module["idx"]))
        return [(str(one["type"]).rpartition(".")[2], folder / str(one["path"])) for one in ordered]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"encoder: {folder / MODULES} must list modules with idx, path and type ({error}).") from error


def positive(values: Settings, name: str, path: Path) -> int:
    """A positive integer of a settings file. Raises InputError."""
    value = values.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InputError(f"encoder: {path} must have a positive integer {name!r}, got {value!r}.")
    return value


def require(folder: Path, *names: str) -> None:
    """Raise InputError that names all files that are missing, weights among them."""
    missing = [name for name in names if not (folder / name).is_file()]
    if not weight_files(folder):
        missing.append(f"{WEIGHTS} (or {PICKLED_WEIGHTS})")
    if missing:
        raise InputError(f"encoder: {folder} lacks {', '.join(missing)}.")


def weight_files(folder: Path) -> list[Path]:
    """The files with a module's weights, sorted: safetensors where there are any, else pickled tensors."""
    for name in (WEIGHTS, PICKLED_WEIGHTS):
        if (folder / name).is_file():
            return [folder / name]
        stem, _, suffix = name.partition(".")
        if (folder / f"{name}.index.json").is_file():
            return sorted(folder.glob(f"{stem}-*-of-*.{suffix}"))
    return []


def tensor(folder: Path, name: str) -> Any:
    """One tensor of a module's weights, or None. Pickled files are read as tensors only: nothing in them is run."""
    for path in weight_files(folder):
        try:
            found = _tensor(path, name)
        except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, AttributeError) as error:
            raise InputError(
                f"encoder: {path} cannot be read as tensors ({first_line(error)}). It is damaged, or holds code, "
                "which is never run."
            ) from error
        if found is not None:
            return found
    return None


def first_line(error: BaseException) -> str:
    """What an error says, without the rest of it."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def rows(projection: Projection) -> int:
    """Dimensions that come out of a projection. Raises InputError when its weights are not there."""
    weight = tensor(projection.folder, projection.tensor)
    if weight is None:
        raise InputError(f"encoder: the weights in {projection.folder} lack {projection.tensor}.")
    if weight.ndim != 2:
        raise InputError(
            f"encoder: {projection.tensor} in {projection.folder} has {weight.ndim} axes, expected rows and columns."
        )
    return int(weight.shape[0])


def special_token(folder: Path, name: str) -> str | None:
    """How a tokenizer spells its `mask_token`, `eos_token` or `pad_token`, or None where it has none."""
    for file in ("tokenizer_config.json", "special_tokens_map.json"):
        value = read_optional_json(folder / file).get(name)
        if isinstance(value, dict):
            value = value.get("content")
        if isinstance(value, str):
            return value
    vocabulary = (folder / TOKENIZER).read_text(encoding="utf-8", errors="replace")  # a damaged one is refused later
    return next((token for token in _USUAL_TOKENS[name] if f'"{token}"' in vocabulary), None)


def positions(folder: Path, config: Settings) -> int:
    """Tokens that the transformer has positions for."""
    most = positive(config, _POSITIONS, folder / CONFIG)
    if config.get("model_type") in ("roberta", "xlm-roberta", "camembert", "mpnet"):
        return most - 2  # these begin to count after the padding token
    return most


def transformer_settings(backbone: Path) -> Settings:
    """What sentence-transformers 6 set for a Transformer. Raises InputError for settings that would be left out."""
    path = backbone / TRANSFORMER_SETTINGS
    settings = read_optional_json(path)
    if settings.get("processing_kwargs"):
        raise InputError(f"encoder: {path} has processing_kwargs, not supported.")
    return settings


def usual_length(folder: Path, config: Settings) -> int:
    """Tokens the encoder was made for: the sentence-transformers setting, else the tokenizer's, else all positions."""
    path = folder / TRANSFORMER_SETTINGS
    settings = read_optional_json(path)
    if settings.get("max_seq_length") is not None:
        made_for = positive(settings, "max_seq_length", path)
        return min(made_for, positions(folder, config)) if _POSITIONS in config else made_for
    tokenizer_most = read_optional_json(folder / "tokenizer_config.json").get("model_max_length")
    most = positions(folder, config)
    return min(most, tokenizer_most) if isinstance(tokenizer_most, int) and tokenizer_most > 0 else most


def _tensor(path: Path, name: str) -> Any:
    import torch  # here, as most layouts are read without it

    if path.suffix == ".safetensors":
        with safe_open(path, framework="pt") as file:
            return file.get_tensor(name) if name in file.keys() else None  # noqa: SIM118  # it is no dict
    return torch.load(path, map_location="cpu", weights_only=True).get(name)


def _load_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"encoder: {path} is not JSON ({error}).") from error

"""Which layout a folder has, seen from its files, and what that layout says. Each layout is one file here."""

from __future__ import annotations

from pathlib import Path

from encoding.layouts import colbert, multi_vector, plain, pylate
from encoding.layouts.files import (
    ADAPTER,
    CONFIG,
    MODEL_SETTINGS,
    MODULES,
    first_line,
    read_modules,
    read_optional_json,
)
from encoding.layouts.layout import Layout, Side
from index_format.errors import InputError


def read_layout(folder: Path) -> Layout:
    """The layout of a checkpoint's folder. Raises InputError that says what is missing or cannot be."""
    try:
        layout = _read(folder)
        for side in (layout.query, layout.document):
            _refuse_odd(side)
    except (AttributeError, TypeError) as error:  # what is no text, number or object where its package has one
        raise InputError(
            f"encoder: a setting in the JSON files of {folder} is of another kind than expected "
            f"({first_line(error)}). Use the files as the model's package saved them."
        ) from error
    return layout


def _refuse_odd(side: Side) -> None:
    texts = {"prompt": side.prompt, "marker": side.marker or ""}
    texts |= {f"skipped word {word!r}": word for word in side.skip.words}
    texts |= {"token of the expansion": side.expansion.token} if side.expansion else {}
    odd = [name for name, text in texts.items() if not isinstance(text, str)]
    if odd or not isinstance(side.length, int):
        raise TypeError(f"{odd[0]} is no text" if odd else f"length {side.length!r} is no integer")


def _refuse_adapter(folder: Path) -> None:
    """transformers would load it where peft is installed, and only there; no fingerprint covers its weights."""
    if (folder / ADAPTER).is_file():
        raise InputError(
            f"encoder: {folder} holds an adapter ({ADAPTER}). Merge it into its base model, and save that without it."
        )


def _read(folder: Path) -> Layout:
    modules = read_modules(folder) if (folder / MODULES).is_file() else []
    for place in {folder, *(path for _, path in modules)}:
        _refuse_adapter(place)
    kinds = [kind for kind, _ in modules]
    settings = read_optional_json(folder / MODEL_SETTINGS)
    if settings.get("model_type") == "MultiVectorEncoder" or "MultiVectorMask" in kinds:
        return multi_vector.read(folder, modules, settings)
    if settings.get("model_type") == "ColBERT" or pylate.SETTINGS & set(settings):
        return pylate.read(folder, modules, settings)
    config = read_optional_json(folder / CONFIG)
    if "HF_ColBERT" in (config.get("architectures") or []):
        return colbert.read(folder, config)
    return plain.read(folder, modules, settings)

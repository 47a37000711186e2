"""The modules that sentence-transformers folders are made of, PyLate's among them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from encoding.layouts import files
from encoding.layouts.layout import Projection, Whole
from index_format.errors import InputError

_POOLING_KEYS = {
    "cls": "pooling_mode_cls_token",
    "max": "pooling_mode_max_tokens",
    "mean": "pooling_mode_mean_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}

Modules = Sequence[tuple[str, Path]]  # as `files.read_modules` has them


def transformer_folder(folder: Path, modules: Modules) -> Path:
    """Where the transformer is. Raises InputError when it is not the first module, or incomplete."""
    if not modules or modules[0][0] != "Transformer":
        found = modules[0][0] if modules else "nothing"
        raise InputError(f"encoder: {folder / files.MODULES} must begin with a Transformer, found {found}.")
    backbone = modules[0][1]
    files.require(backbone, files.CONFIG, files.TOKENIZER)
    return backbone


def projections(modules: Modules) -> tuple[Projection, ...]:
    """The Dense modules, in order."""
    return tuple(_projection(folder) for kind, folder in modules if kind == "Dense")


def whole_vector(modules: Modules) -> Whole | None:
    """How the Pooling module makes one vector of a whole text; None where there is none, or one of another kind."""
    config = next(
        (files.read_optional_json(folder / files.CONFIG) for kind, folder in modules if kind == "Pooling"), {}
    )
    if config.get("include_prompt") is False:
        return None  # the mean of some tokens only
    # Until sentence-transformers 5.2 a key for each mode, then one for all.
    modes = config.get("pooling_mode") or [one for one, key in _POOLING_KEYS.items() if config.get(key)]
    modes = [modes] if isinstance(modes, str) else modes
    return next((one for one in get_args(Whole) if modes == [one]), None)


def refuse_unknown(folder: Path, modules: Modules, known: set[str]) -> None:
    """Raise InputError that names a module that would be left out silently."""
    unknown = sorted({kind for kind, _ in modules} - known)
    if unknown:
        raise InputError(
            f"encoder: {folder / files.MODULES} has the modules {', '.join(unknown)}, which Colonnade does not have. "
            f"It has {', '.join(sorted(known))}."
        )


def _projection(folder: Path) -> Projection:
    files.require(folder, files.CONFIG)
    config = files.read_json(folder / files.CONFIG)
    activation = str(config.get("activation_function", "torch.nn.modules.activation.Tanh"))
    if not activation.startswith("torch.nn."):
        raise InputError(
            f"encoder: {folder / files.CONFIG} has the activation {activation!r}, expected one of torch.nn."
        )
    return Projection(folder, activation=activation.rpartition(".")[2], residual=bool(config.get("use_residual")))

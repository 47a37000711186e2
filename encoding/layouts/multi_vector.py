"""sentence-transformers 6, MultiVectorEncoder: lengths and expansion with the Transformer, the rest in modules."""

from __future__ import annotations

from pathlib import Path

from encoding.layouts import files
from encoding.layouts.layout import Expansion, Layout, Side, Skip
from encoding.layouts.modules import Modules, projections, refuse_unknown, transformer_folder
from index_format.errors import InputError

_MODULES = {"Transformer", "Dense", "MultiVectorMask", "Normalize", "Dropout"}


def read(folder: Path, modules: Modules, settings: files.Settings) -> Layout:
    """The layout of a folder that sentence-transformers saved as a MultiVectorEncoder."""
    backbone = transformer_folder(folder, modules)
    refuse_unknown(folder, modules, _MODULES)
    if "Normalize" not in [kind for kind, _ in modules]:
        raise InputError(f"encoder: {folder} does not normalise its vectors, and MaxSim here is of unit vectors.")
    config = files.read_json(backbone / files.CONFIG)
    own = files.transformer_settings(backbone)
    dense = projections(modules)
    usual, most = files.usual_length(backbone, config), files.positions(backbone, config)
    prompts = settings.get("prompts") or {}
    skips = _skips(modules)
    return Layout(
        kind="MultiVectorEncoder",
        backbone=backbone,
        dim=files.rows(dense[-1]) if dense else files.positive(config, "hidden_size", backbone / files.CONFIG),
        query=_query(backbone, own, usual, most, prompts.get("query") or "", skips["query"]),
        document=Side(
            length=min(own.get("document_length") or usual, most),
            prompt=prompts.get("document") or "",
            skip=skips["document"],
        ),
        projections=dense,
        lowercase="words" if own.get("do_lower_case") else None,
    )


def _query(backbone: Path, own: files.Settings, usual: int, positions: int, prompt: str, skip: Skip) -> Side:
    most = min(own.get("query_length") or usual, positions)
    wanted = own.get("query_expansion")
    if not wanted:
        return Side(length=most, prompt=prompt, skip=skip)
    path = backbone / files.TRANSFORMER_SETTINGS
    length = min(files.positive(wanted, "length", path), positions)
    filling = wanted.get("token") or files.special_token(backbone, "mask_token")
    filling = filling or files.special_token(backbone, "eos_token")
    if not filling or wanted.get("strategy") not in ("fixed", "min"):
        raise InputError(f"encoder: {path} has a query_expansion without a known strategy or token: {wanted}.")
    expansion = Expansion(length, filling, bool(wanted.get("attend")))
    ceiling = length if wanted["strategy"] == "fixed" else max(length, most)
    return Side(length=ceiling, prompt=prompt, expansion=expansion, skip=skip)


def _skips(modules: Modules) -> dict[str, Skip]:
    """What each side skips, from the MultiVectorMask."""
    mask = next((folder for kind, folder in modules if kind == "MultiVectorMask"), None)
    config = files.read_optional_json(mask / files.CONFIG) if mask else {}
    if config.get("keep_only_token_ids"):
        raise InputError(f"encoder: {mask} keeps only the tokens of images, and Colonnade indexes text.")
    skip = Skip(tuple(config.get("skiplist_words") or ()), "token")
    tasks = config.get("skiplist_tasks")
    tasks = ["document"] if tasks is None else [tasks] if isinstance(tasks, str) else tasks
    return {side: skip if side in tasks else Skip() for side in ("query", "document")}

"""PyLate's ColBERT: a Transformer and Dense modules, and all else in config_sentence_transformers.json."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

from encoding.layouts import files
from encoding.layouts.layout import Expansion, Layout, Side, Skip
from encoding.layouts.modules import Modules, projections, transformer_folder
from index_format.errors import InputError

SETTINGS = {"query_prefix", "document_prefix", "query_length", "document_length", "do_query_expansion"}


def read(folder: Path, modules: Modules, settings: files.Settings) -> Layout:
    """The layout of a folder that PyLate saved."""
    backbone = transformer_folder(folder, modules)
    dense = projections(modules)  # modules of another kind PyLate leaves out
    if not dense:
        raise InputError(f"encoder: {folder / files.MODULES} lists no Dense module, and PyLate needs one.")
    most = files.positions(backbone, files.read_json(backbone / files.CONFIG))
    query_length = min(_setting(settings, "query_length", 32), most)
    prompt = (settings.get("prompts") or {}).get(settings.get("default_prompt_name")) or ""
    expansion = Expansion(query_length, _filling(backbone), bool(settings.get("attend_to_expansion_tokens")))
    words = _setting(settings, "skiplist_words", list(string.punctuation))
    own = files.read_optional_json(backbone / files.TRANSFORMER_SETTINGS)
    return Layout(
        kind="PyLate",
        backbone=backbone,
        dim=files.rows(dense[-1]),
        query=Side(
            length=query_length,
            prompt=prompt,
            marker=_setting(settings, "query_prefix", "[Q] ") or None,
            expansion=expansion if _setting(settings, "do_query_expansion", True) else None,
            strip=True,
        ),
        document=Side(
            length=min(_setting(settings, "document_length", 180), most),
            prompt=prompt,
            marker=_setting(settings, "document_prefix", "[D] ") or None,
            skip=Skip(tuple(words), "token or unknown"),
            strip=True,
        ),
        projections=dense,
        lowercase="all" if own.get("do_lower_case") else None,
    )


def _setting(settings: files.Settings, name: str, default: object) -> Any:
    """A setting, or PyLate's default where the file has none: null and absent are the same to it."""
    value = settings.get(name)
    return default if value is None else value


def _filling(backbone: Path) -> str:
    for name in ("mask_token", "eos_token", "pad_token"):
        token = files.special_token(backbone, name)
        if token:
            return token
    raise InputError(f"encoder: the tokenizer in {backbone} has no mask, end or padding token to fill queries with.")

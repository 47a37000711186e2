"""A plain encoder: its last token states, projected where a sentence-transformers folder has a Dense module.

It was not trained for late interaction, so Colonnade says how its tokens are used: queries and documents alike,
without [MASK] expansion, and without markers and punctuation, which match everything a little and cost bytes.
What it was trained for, one vector for the whole text, is kept beside them (docs/decisions/0005-whole-vector.md).
"""

from __future__ import annotations

import string
from pathlib import Path

from encoding.layouts import files
from encoding.layouts.layout import Layout, Side, Skip
from encoding.layouts.modules import Modules, projections, refuse_unknown, transformer_folder, whole_vector

_MODULES = {"Transformer", "Pooling", "Dense", "Normalize", "Dropout"}
_SKIP = Skip(tuple(string.punctuation), "token")


def read(folder: Path, modules: Modules, settings: files.Settings) -> Layout:
    """The layout of a folder with a Hugging Face transformer, saved by sentence-transformers or not."""
    if modules:
        backbone = transformer_folder(folder, modules)
        refuse_unknown(folder, modules, _MODULES)
    else:
        files.require(folder, files.CONFIG, files.TOKENIZER)
        backbone = folder
    config = files.read_json(backbone / files.CONFIG)
    dense = projections(modules)
    length = files.usual_length(backbone, config)
    prompts = settings.get("prompts") or {}
    own = files.transformer_settings(backbone)
    return Layout(
        kind="plain",
        backbone=backbone,
        dim=files.rows(dense[-1]) if dense else files.positive(config, "hidden_size", backbone / files.CONFIG),
        query=Side(length, prompts.get("query") or "", skip=_SKIP),
        document=Side(length, prompts.get("document") or "", skip=_SKIP),
        projections=dense,
        keep_markers=False,
        whole=whole_vector(modules),
        lowercase="words" if own.get("do_lower_case") else None,
    )

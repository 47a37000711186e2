"""Stanford's ColBERT: one folder, the projection among the transformer's weights, settings in artifact.metadata."""

from __future__ import annotations

import string
from pathlib import Path

from encoding.layouts import files
from encoding.layouts.layout import Expansion, Layout, Projection, Side, Skip

METADATA = "artifact.metadata"

# What ColBERT itself assumes for what an older artifact.metadata does not say.
_QUERY_MARKER, _DOCUMENT_MARKER = "[unused0]", "[unused1]"
_QUERY_LENGTH, _DOCUMENT_LENGTH = 32, 220


def read(folder: Path, config: files.Settings) -> Layout:
    """The layout of a folder whose architecture is HF_ColBERT."""
    files.require(folder, files.CONFIG, files.TOKENIZER)
    metadata = files.read_optional_json(folder / METADATA)
    metadata = metadata.get("config", metadata)
    most = files.positions(folder, config)
    query_length = min(metadata.get("query_maxlen") or _QUERY_LENGTH, most)
    # ColBERT tells padding by its id: that token inside a document is none, and inside a query is filling.
    padding = files.special_token(folder, "pad_token") or "[PAD]"
    punctuation = tuple(string.punctuation) if metadata.get("mask_punctuation", True) else ()
    projection = Projection(folder)
    return Layout(
        kind="ColBERT",
        backbone=folder,
        dim=files.rows(projection),
        query=Side(
            length=query_length,
            marker=metadata.get("query_token_id") or _QUERY_MARKER,
            expansion=Expansion(
                length=query_length,
                token=files.special_token(folder, "mask_token") or "[MASK]",
                attend=bool(metadata.get("attend_to_mask_tokens")),
                padding=padding,
            ),
        ),
        document=Side(
            length=min(metadata.get("doc_maxlen") or _DOCUMENT_LENGTH, most),
            marker=metadata.get("doc_token_id") or _DOCUMENT_MARKER,
            skip=Skip((*punctuation, padding), "first token"),
        ),
        projections=(projection,),
    )

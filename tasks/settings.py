"""How an index is begun: what is chosen once, and holds for as long as the index lives."""

from __future__ import annotations

from encoding.checkpoint import Checkpoint
from encoding.chunking import refuse_little_room
from encoding.inputs import SideTokenizer
from index_format.errors import InputError
from index_format.manifest import ChunkingRecord, Manifest

DEFAULT_BITS = 4
_OVERLAPS = 4  # a passage shares at most one part of so many with its neighbour


def wanted_chunking(
    checkpoint: Checkpoint,
    passage_tokens: int | None = None,
    overlap_tokens: int | None = None,
    pool: int | None = None,
) -> ChunkingRecord:
    """How documents are cut: as asked for, and into passages of as many tokens as the encoder takes by default.

    Raises InputError for what the encoder or the cut cannot take, before a document is read.
    """
    if (passage_tokens or 0) > checkpoint.max_tokens:
        raise InputError(
            f"passage_tokens: {checkpoint.name} takes {checkpoint.max_tokens} at most, got {passage_tokens}."
        )
    tokens, overlap = passage_tokens or checkpoint.max_tokens, overlap_tokens or 0
    refuse_wide_overlap(tokens, overlap)
    layout = checkpoint.layout
    SideTokenizer(layout, layout.query)  # raises where no query could ever be asked
    refuse_little_room(tokens, SideTokenizer(layout, layout.document).added)
    return ChunkingRecord(passage_tokens=tokens, overlap_tokens=overlap, pool_factor=pool or 1)


def refuse_wide_overlap(passage_tokens: int, overlap_tokens: int) -> None:
    """Raise InputError when neighbouring passages would share more than a quarter."""
    if overlap_tokens > passage_tokens // _OVERLAPS:
        raise InputError(
            f"overlap_tokens: expected 0 to {passage_tokens // _OVERLAPS}, a quarter of a passage's {passage_tokens}, "
            f"got {overlap_tokens}."
        )


def refuse_other_settings(base: Manifest, *, where: str, **asked: int | None) -> None:
    """Raise InputError when the index there has other bits or another cut than asked for; None asks for nothing."""
    cut = base.chunking
    there = {
        "bits": base.codec.bits,
        "passage_tokens": cut.passage_tokens,
        "overlap_tokens": cut.overlap_tokens,
        "pool_factor": cut.pool_factor,
    }
    other = [name for name, value in asked.items() if value not in (None, there[name])]
    if other:
        found = ", ".join(f"{name} {there[name]}, not {asked[name]}" for name in other)
        raise InputError(
            f"{where}: the index that is there has {found}. Leave them out to keep its own, "
            "or make it anew with: colonnade reindex."
        )

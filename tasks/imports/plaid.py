"""ColBERT's PLAID indexes, and RAGatouille's, which are the same with texts and ids beside them.

Tensors are `.pt` files: they are read weights-only, so that no file can run a program, and mapped where torch can.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from index_format.errors import SourceError
from tasks.imports.peer import (
    Chunk,
    PeerIndex,
    PeerPassage,
    Residuals,
    checked_residuals,
    expect,
    read_chunk_lengths,
    read_count,
    read_json,
)

Said = TypeVar("Said", str, int)
CENTROIDS = "centroids.pt"
COLLECTION, IDS, METADATA = "collection.json", "pid_docid_map.json", "docid_metadata_map.json"


def open_plaid(folder: Path) -> PeerIndex:
    """Open an index of ColBERT or RAGatouille. Raises SourceError with what is wrong with it."""
    said = read_json(folder / "metadata.json")
    chunks = read_chunk_lengths(folder, said, "num_passages")
    starts = np.cumsum([0, *(len(one) for one in chunks)])
    for number, start in enumerate(starts[:-1].tolist()):
        where = folder / f"{number}.metadata.json"
        begins = read_count(read_json(where), "passage_offset", where)
        expect(begins == start, f"{where}: passage_offset", start, begins)
    # Its updater counts tokens twice when it adds, so the sum may be too high, but never too low.
    tokens, sum_said = sum(int(one.sum()) for one in chunks), read_count(said, "num_embeddings", folder)
    expect(tokens <= sum_said, f"{folder}: num_embeddings", f"at least {tokens}", sum_said)
    config = said.get("config") or {}
    ragatouille = (folder / COLLECTION).exists() or (folder / IDS).exists()
    lengths = np.concatenate(chunks)
    return PeerIndex(
        layout="RAGatouille" if ragatouille else "ColBERT",
        folder=folder,
        residuals=_codec(folder, config),
        chunk_lengths=chunks,
        read_chunk=lambda number: _chunk(folder, number, chunks[number]),
        passages=(lambda: read_maps(folder, lengths)) if ragatouille else None,
        checkpoint=_said(config, "checkpoint", str),
        passage_tokens=_said(config, "doc_maxlen", int),
        pool_factor=_said(config, "pool_factor", int) or 1,
    )


def _said(config: dict[str, Any], name: str, kind: type[Said]) -> Said | None:
    """A setting of the index, where it has it; older ones have fewer."""
    value = config.get(name)
    return value if isinstance(value, kind) else None


def read_maps(folder: Path, lengths: NDArray[np.int64]) -> Iterator[PeerPassage]:
    """What RAGatouille keeps of each passage, by position. Raises SourceError when its maps disagree.

    Its delete takes passages out of the texts, but not out of the index, and shifts texts against ids. Where exactly
    those passages have no tokens left that have no id, the texts belong to the others in their order.
    """
    texts, ids = read_json(folder / COLLECTION), _ids_by_position(folder / IDS, len(lengths))
    metadata = read_json(folder / METADATA) if (folder / METADATA).exists() else {}
    expect(isinstance(texts, list), f"{folder / COLLECTION}", "a list of texts", type(texts).__name__)
    expect(isinstance(metadata, dict), f"{folder / METADATA}", "an object", type(metadata).__name__)
    unnamed = [position for position, one in enumerate(ids) if one is None and lengths[position] > 0]
    if unnamed:
        raise SourceError(
            f"{folder / IDS}: passage {unnamed[0]} has tokens and no document id, and so have {len(unnamed)} in all: "
            "the map does not belong to this index; nothing was imported."
        )
    named = sum(one is not None for one in ids)
    expect(len(texts) in (named, len(ids)), f"{folder / COLLECTION}: texts", f"{named} or {len(ids)}", len(texts))
    for own, text in zip(ids, texts if len(texts) == len(ids) else _spread(texts, ids), strict=True):
        yield PeerPassage(own or "", text if own is not None else None, None, _metadata_of(folder, metadata, own))


def _spread(texts: list[Any], ids: list[str | None]) -> Iterator[Any]:
    """Each text at its position; None where there is no id."""
    rest = iter(texts)
    for own in ids:
        yield None if own is None else next(rest)


def _ids_by_position(path: Path, passages: int) -> list[str | None]:
    said = read_json(path)
    expect(isinstance(said, dict), f"{path}", "an object of ids by passage", type(said).__name__)
    ids: list[str | None] = [None] * passages
    for key, own in said.items():
        inside = isinstance(key, str) and key.isdigit() and int(key) < passages
        expect(inside, f"{path}: passage", f"a number below {passages}", repr(key))
        expect(isinstance(own, str | int), f"{path}: id of passage {key}", "a text or a number", repr(own))
        ids[int(key)] = str(own)
    return ids


def _metadata_of(folder: Path, metadata: dict[str, Any], own: str | None) -> dict[str, Any]:
    found = metadata.get(own) if own is not None else None
    expect(found is None or isinstance(found, dict), f"{folder / METADATA}: {own}", "an object", repr(found)[:80])
    return found or {}


def _codec(folder: Path, config: dict[str, Any]) -> Residuals:
    centroids, buckets = _load(folder / CENTROIDS), _load(folder / "buckets.pt")
    pair = isinstance(buckets, tuple | list) and len(buckets) == 2
    expect(pair, f"{folder / 'buckets.pt'}", "cutoffs and weights", type(buckets).__name__)
    bits = config.get("nbits")
    weights = _array(buckets[1], folder / "buckets.pt")
    return checked_residuals(folder, _array(centroids, folder / CENTROIDS), weights, bits)


def _chunk(folder: Path, number: int, lengths: NDArray[np.int64]) -> Chunk:
    codes, residuals = (folder / f"{number}.{name}.pt" for name in ("codes", "residuals"))
    return Chunk(lengths, _array(_load(codes), codes), _array(_load(residuals), residuals))  # type: ignore[arg-type]


def _array(value: Any, path: Path) -> NDArray[np.generic]:
    expect(isinstance(value, torch.Tensor), f"{path}", "a tensor", type(value).__name__)
    made: NDArray[np.generic] = value.detach().numpy()
    return made


def _load(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except FileNotFoundError:
        raise SourceError(f"{path} is missing: the index is not whole; nothing was imported.") from None
    except pickle.UnpicklingError as error:
        raise SourceError(
            f"{path}: holds more than tensors, or is cut off, and was not run ({str(error).splitlines()[0]}); "
            "nothing was imported."
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError) as error:
        raise SourceError(f"{path}: cannot be read ({str(error).splitlines()[0]}); nothing was imported.") from error

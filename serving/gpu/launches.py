"""How the kernels are launched: grids, tiles, and one launch after the other for query vectors beyond one group."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from serving.gpu import kernels
from serving.gpu.query import LanesOnDevice
from serving.gpu.resident import Resident

EXACT = {"enable_fp_fusion": False}
"""For every launch: a fused multiply-add rounds once where SPEC §6.2 asks for two roundings."""

SLAB = 1 << 18  # passages whose parts are held at once: 32 MiB for 32 query vectors, which stay in the L2 cache
_LONGEST_TILE = 64
_SHORTEST_TILE = 16
_PASSAGES = 256  # of one program that only adds or counts
_CENTROIDS = 64
_OUTLIERS = 64
_IDS = 32
_LEAST_BYTES = 32  # what a product of bytes takes at once
_MOST_BYTES = 64
_PROGRAMS = 16  # on each multiprocessor: enough to hide the latency of memory
_INTERPRETED_PROGRAMS = 3


@dataclass(frozen=True, slots=True)
class Tiling:
    """tokens: of one tile. warps: of the program that works on it. programs: at once, each on one passage."""

    tokens: int
    warps: int
    programs: int


def tiling_for(resident: Resident) -> Tiling:
    """Tiles that fit the passages' mean length, and as many programs as keep a device busy."""
    mean = resident.tokens / max(1, resident.passages)
    tokens = _SHORTEST_TILE
    while tokens < min(mean, _LONGEST_TILE):
        tokens *= 2
    return Tiling(tokens, warps=4 if tokens >= _LONGEST_TILE else 2, programs=_programs(resident.device))


def _programs(device: torch.device) -> int:
    if device.type != "cuda":
        return _INTERPRETED_PROGRAMS
    return _PROGRAMS * torch.cuda.get_device_properties(device).multi_processor_count


def chunk_bytes(row_bytes: int) -> int:
    """How many packed bytes of a row are multiplied at once."""
    return _LEAST_BYTES if row_bytes <= _LEAST_BYTES or row_bytes % _MOST_BYTES else _MOST_BYTES


def score_all(
    resident: Resident,
    lanes: list[LanesOnDevice],
    found: Tensor,
    totals: Tensor,
    parts: Tensor,
    tiling: Tiling | None = None,
) -> None:
    """MaxSim of every passage that may be found, in `totals` float32 [P]; -inf for the others.

    found: uint8 [P]. parts: float32, scratch of at least min(P, SLAB) times the widest lanes. tiling: another than
    `tiling_for` chooses, to measure it.
    """
    tiling = tiling or tiling_for(resident)
    for first in range(0, resident.passages, SLAB):
        count = min(SLAB, resident.passages - first)
        for number, own in enumerate(lanes):
            _score(resident, tiling, own, None, first, count, found, totals, parts, added=number > 0)


def score_chosen(resident: Resident, lanes: list[LanesOnDevice], chosen: Tensor) -> Tensor:
    """MaxSim of some passages, int64 [n]: float32 [n]."""
    tiling = tiling_for(resident)
    totals = torch.empty(len(chosen), dtype=torch.float32, device=resident.device)
    parts = torch.empty(min(len(chosen), SLAB) * lanes[0].vectors, dtype=torch.float32, device=resident.device)
    for first in range(0, len(chosen), SLAB):
        own = chosen[first : first + SLAB]
        for number, one in enumerate(lanes):
            _score(resident, tiling, one, own, 0, len(own), None, totals[first : first + SLAB], parts, added=number > 0)
    return totals


def score_all_of_several(
    resident: Resident, lanes: LanesOnDevice, edges: Tensor, found: Tensor, totals: Tensor, parts: Tensor
) -> None:
    """What `score_all` says, for each of several queries that share the lanes, in `totals` float32 [queries, P].

    edges: int32 [queries + 1], each query's first lane, and one past the last.
    """
    tiling = tiling_for(resident)
    for first in range(0, resident.passages, SLAB):
        count = min(SLAB, resident.passages - first)
        _write_parts(resident, tiling, lanes, None, first, count, found, parts)
        kernels.sum_parts_by_query[(-(-count // _PASSAGES), len(totals))](
            parts, edges, first, count, found, totals, resident.passages,
            VECTORS=lanes.vectors, PASSAGES=_PASSAGES, **EXACT,
        )  # fmt: skip


def _score(
    resident: Resident, tiling: Tiling, lanes: LanesOnDevice, chosen: Tensor | None, first: int, count: int,
    found: Tensor | None, totals: Tensor, parts: Tensor, *, added: bool,
) -> None:  # fmt: skip
    _write_parts(resident, tiling, lanes, chosen, first, count, found, parts)
    kernels.sum_parts[(-(-count // _PASSAGES),)](
        parts, first, count, found, totals,
        LISTED=chosen is not None, ADDED=added, VECTORS=lanes.vectors, PASSAGES=_PASSAGES, **EXACT,
    )  # fmt: skip


def _write_parts(
    resident: Resident, tiling: Tiling, lanes: LanesOnDevice, chosen: Tensor | None, first: int, count: int,
    found: Tensor | None, parts: Tensor,
) -> None:  # fmt: skip
    kernels.maxsim[(min(count, tiling.programs),)](
        chosen, first, count, found, resident.segments, resident.segment_of,
        lanes.levels, lanes.corrections, lanes.scales, lanes.offsets, parts,
        LISTED=chosen is not None, BITS=resident.bits, DIM=resident.dim, VECTORS=lanes.vectors, TOKENS=tiling.tokens,
        BYTES=chunk_bytes(resident.dim * resident.bits // 8), num_warps=tiling.warps, **EXACT,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Approximations:
    """sums: int32 [P], -1 for passages that may not be found. histogram: int32, how many have each sum."""

    sums: Tensor
    histogram: Tensor


def approximate(resident: Resident, lanes: list[LanesOnDevice], found: Tensor, result: Approximations) -> None:
    """Fill in the approximate score of every passage that may be found, as `serving.scoring` defines it."""
    for number, own in enumerate(lanes):
        table, outliers = _centroid_table(resident, own), _outlier_bytes(resident, own)
        kernels.scan[(min(resident.passages, 2 * _programs(resident.device)),)](
            resident.passages, found, resident.segments, resident.segment_of, len(table), table, outliers, result.sums,
            ADDED=number > 0, WIDE=resident.id_bytes == 4, VECTORS=own.vectors, IDS=_IDS, num_warps=1, **EXACT,
        )  # fmt: skip
    result.histogram.zero_()
    kernels.count_sums[(-(-resident.passages // _PASSAGES),)](
        resident.passages, result.sums, result.histogram, PASSAGES=_PASSAGES, **EXACT
    )


def _centroid_table(resident: Resident, lanes: LanesOnDevice) -> Tensor:
    """The byte of each centroid: uint8 [C, vectors]."""
    count = len(resident.centroid_scales)
    values = torch.empty((count, lanes.vectors), dtype=torch.float32, device=resident.device)
    kernels.centroid_values[(-(-count // _CENTROIDS),)](
        count, resident.centroid_codes, resident.centroid_scales,
        lanes.levels, lanes.centroid_corrections, lanes.scales, values,
        DIM=resident.dim, VECTORS=lanes.vectors, CENTROIDS=_CENTROIDS, BYTES=chunk_bytes(resident.dim), **EXACT,
    )  # fmt: skip
    table = torch.empty(values.shape, dtype=torch.uint8, device=resident.device)
    kernels.round_table[(-(-count // _CENTROIDS),)](
        count, values, lanes.floors, lanes.steps, table, VECTORS=lanes.vectors, CENTROIDS=_CENTROIDS, **EXACT
    )
    return table


def _outlier_bytes(resident: Resident, lanes: LanesOnDevice) -> Tensor:
    """The byte of each outlier of all segments: uint8 [outliers, vectors]."""
    count = len(resident.outlier_segment_of)
    outliers = torch.empty((count, lanes.vectors), dtype=torch.uint8, device=resident.device)
    if count:
        kernels.outlier_bytes[(-(-count // _OUTLIERS),)](
            count, resident.segments, resident.outlier_segment_of,
            lanes.levels, lanes.corrections, lanes.scales, lanes.offsets, lanes.floors, lanes.steps, outliers,
            BITS=resident.bits, DIM=resident.dim, VECTORS=lanes.vectors, OUTLIERS=_OUTLIERS,
            BYTES=chunk_bytes(resident.dim * resident.bits // 8), **EXACT,
        )  # fmt: skip
    return outliers

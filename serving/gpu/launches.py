"""How the kernels are launched: grids, tiles, and one launch after the other for query vectors beyond one group."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from encoding.pooling_kernel import EXACT
from serving.gpu import kernels
from serving.gpu.query import LanesOnDevice
from serving.gpu.resident import Resident

_RUN = 8  # neighbouring passages that a program scores one after the other
_SHORT_TILE = 16
_LONG_TILE = 32
_LONG_DIM = 128  # beyond it, reading the query again for each tile costs more than a tile's empty end
_COUNTED = 256  # passages of one program that only counts
_HISTOGRAMS = 32
_ROWS = 32  # centroids or outliers of one tile
_SCANNED = 8  # passages of one program that reads bytes
_SCANNED_ROWS = 4  # of each at once: with the passages, as many as a warp has threads
_LEAST_BYTES = 32  # what a product of bytes takes at once
_MOST_BYTES = 64
_PROGRAMS = 32  # on each multiprocessor, twice as many as run at once: short ones make room for others
_INTERPRETED_PROGRAMS = 3


@dataclass(frozen=True, slots=True)
class Tiling:
    """tokens: of one tile. warps: of the program that works on it. programs: at once, each on one passage."""

    tokens: int
    warps: int
    programs: int


def tiling_for(resident: Resident) -> Tiling:
    """One warp for a passage, and short tiles, which leave little empty at its end (measured on an H200)."""
    tokens = _SHORT_TILE if resident.dim <= _LONG_DIM else _LONG_TILE
    return Tiling(tokens, warps=1, programs=_programs(resident.device))


def _programs(device: torch.device) -> int:
    if device.type != "cuda":
        return _INTERPRETED_PROGRAMS
    return _PROGRAMS * torch.cuda.get_device_properties(device).multi_processor_count


def chunk_bytes(row_bytes: int) -> int:
    """How many packed bytes of a row are multiplied at once."""
    return _LEAST_BYTES if row_bytes <= _LEAST_BYTES or row_bytes % _MOST_BYTES else _MOST_BYTES


def parts_for(resident: Resident, lanes: LanesOnDevice, tiling: Tiling | None = None) -> Tensor:
    """Scratch for a pass over all passages: float32, the parts of the passages at work at once."""
    programs = (tiling or tiling_for(resident)).programs
    return torch.empty(programs * _RUN * lanes.vectors, dtype=torch.float32, device=resident.device)


def score_all(
    resident: Resident,
    lanes: list[LanesOnDevice],
    found: Tensor,
    totals: Tensor,
    parts: Tensor,
    tiling: Tiling | None = None,
) -> None:
    """MaxSim of every passage that may be found, in `totals` float32 [P]; -inf for the others.

    found: uint8 [P]. parts: as `parts_for` gives. tiling: another than `tiling_for` chooses, to measure it.
    """
    for number, own in enumerate(lanes):
        _score(resident, own, None, found, totals, parts, tiling or tiling_for(resident), added=number > 0)


def score_chosen(resident: Resident, lanes: list[LanesOnDevice], chosen: Tensor) -> Tensor:
    """MaxSim of some passages, int64 [n]: float32 [n]."""
    tiling = tiling_for(resident)
    totals = torch.empty(len(chosen), dtype=torch.float32, device=resident.device)
    parts = torch.empty(tiling.programs * lanes[0].vectors, dtype=torch.float32, device=resident.device)
    for number, own in enumerate(lanes):
        _score(resident, own, chosen, None, totals, parts, tiling, added=number > 0)
    return totals


def score_all_of_several(
    resident: Resident, lanes: LanesOnDevice, edges: Tensor, found: Tensor, totals: Tensor, parts: Tensor
) -> None:
    """What `score_all` says, for each of several queries that share the lanes, in `totals` float32 [queries, P].

    edges: int32 [queries + 1], each query's first lane, and one past the last.
    """
    _score(resident, lanes, None, found, totals, parts, tiling_for(resident), edges=edges)


def _score(
    resident: Resident, lanes: LanesOnDevice, chosen: Tensor | None, found: Tensor | None, totals: Tensor,
    parts: Tensor, tiling: Tiling, *, added: bool = False, edges: Tensor | None = None,
) -> None:  # fmt: skip
    count, run = (resident.passages, _RUN) if chosen is None else (len(chosen), 1)
    kernels.maxsim[(min(-(-count // run), tiling.programs),)](
        chosen, count, found, resident.segments, resident.segment_of,
        lanes.levels, lanes.corrections, lanes.scales, lanes.offsets, parts,
        edges, len(totals), totals, resident.passages,
        LISTED=chosen is not None, ADDED=added, SEVERAL=edges is not None, BITS=resident.bits, DIM=resident.dim,
        VECTORS=lanes.vectors, TOKENS=tiling.tokens, BYTES=chunk_bytes(resident.dim * resident.bits // 8), RUN=run,
        num_warps=tiling.warps, **EXACT,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Approximations:
    """sums: int32 [P], -1 for passages that may not be found. histogram: int64, how many have each sum.

    histograms: int32 [copies, sums], scratch.
    """

    sums: Tensor
    histogram: Tensor
    histograms: Tensor

    @staticmethod
    def of(resident: Resident, most: int) -> Approximations:
        """Room for sums up to `most`."""
        sums = torch.empty(resident.passages, dtype=torch.int32, device=resident.device)
        histogram = torch.empty(most + 1, dtype=torch.int64, device=resident.device)
        return Approximations(
            sums, histogram, torch.empty((_HISTOGRAMS, most + 1), dtype=torch.int32, device=sums.device)
        )


def approximate(resident: Resident, lanes: list[LanesOnDevice], found: Tensor, result: Approximations) -> None:
    """Fill in the approximate score of every passage that may be found, as `serving.scoring` defines it."""
    for number, own in enumerate(lanes):
        table, outliers = _centroid_bytes(resident, own), _outlier_bytes(resident, own)
        kernels.scan[(-(-resident.passages // _SCANNED),)](
            resident.passages, found, resident.segments, resident.segment_of, len(table), table, outliers, result.sums,
            ADDED=number > 0, WIDE=resident.id_bytes == 4, VECTORS=own.vectors, PASSAGES=_SCANNED, ROWS=_SCANNED_ROWS,
            num_warps=1, **EXACT,
        )  # fmt: skip
    result.histograms.zero_()
    kernels.count_sums[(-(-resident.passages // _COUNTED),)](
        resident.passages, result.sums, result.histograms,
        BINS=result.histograms.shape[1], COPIES=_HISTOGRAMS, PASSAGES=_COUNTED, **EXACT,
    )  # fmt: skip
    torch.sum(result.histograms, 0, out=result.histogram)


def _centroid_bytes(resident: Resident, lanes: LanesOnDevice) -> Tensor:
    """The byte of each centroid: uint8 [C, vectors]."""
    count = len(resident.centroid_scales)
    table = torch.empty((count, lanes.vectors), dtype=torch.uint8, device=resident.device)
    kernels.centroid_bytes[(min(-(-count // _ROWS), _programs(resident.device)),)](
        count, resident.centroid_codes, resident.centroid_scales,
        lanes.levels, lanes.centroid_corrections, lanes.scales, lanes.floors, lanes.steps, table,
        DIM=resident.dim, VECTORS=lanes.vectors, ROWS=_ROWS, BYTES=chunk_bytes(resident.dim), num_warps=1, **EXACT,
    )  # fmt: skip
    return table


def _outlier_bytes(resident: Resident, lanes: LanesOnDevice) -> Tensor:
    """The byte of each outlier of all segments: uint8 [outliers, vectors]."""
    count = len(resident.outlier_segment_of)
    outliers = torch.empty((count, lanes.vectors), dtype=torch.uint8, device=resident.device)
    if count:
        kernels.outlier_bytes[(min(-(-count // _ROWS), _programs(resident.device)),)](
            count, resident.segments, resident.outlier_segment_of,
            lanes.levels, lanes.corrections, lanes.scales, lanes.offsets, lanes.floors, lanes.steps, outliers,
            BITS=resident.bits, DIM=resident.dim, VECTORS=lanes.vectors, ROWS=_ROWS,
            BYTES=chunk_bytes(resident.dim * resident.bits // 8), num_warps=1, **EXACT,
        )  # fmt: skip
    return outliers

"""Indexes for benchmarks/gpu.py that no text stands behind: codes at random, large ones drawn on the GPU."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from index_format.codec import Codec
from index_format.segment import Codes, PassageCentroids
from serving.gpu.resident import Resident, Upload
from serving.kernels.segments import ARRAYS, Field

IDS_A_TOKEN = 0.6  # distinct centroids of a passage by its tokens (docs/decisions/0003)
OUTLIERS_A_TOKEN = 0.1  # of small indexes, so that some passages have some and some have none
_TOKENS_AN_OUTLIER = 50  # of large ones
_BLOCK = 1 << 28


@dataclass(frozen=True, slots=True)
class HostSegment:
    """What `upload` and the processor's kernels read of a segment, in host memory."""

    record: Any
    codes: Codes
    centroids: PassageCentroids

    @property
    def arrays(self) -> tuple[NDArray[Any], ...]:
        """In the order of `SegmentTable.of`."""
        return (*self.codes.arrays, *self.centroids.arrays)


def host_segments(codec: Codec, lengths: list[int], *, centroids: int) -> list[HostSegment]:
    """Three segments whose passages have the given tokens between them."""
    random = np.random.default_rng(len(lengths))
    return [
        _host_segment(random, name, codec, own.tolist(), centroids)
        for name, own in enumerate(np.array_split(np.array(lengths), 3))
    ]


def _host_segment(
    random: np.random.Generator, name: int, codec: Codec, lengths: list[int], centroids: int
) -> HostSegment:
    tokens = sum(lengths)
    ids = [np.sort(random.choice(centroids, min(centroids, length), replace=False)) for length in lengths]
    codes = Codes(
        offsets=_offsets(lengths),
        codes=random.integers(0, 256, (tokens, codec.row_bytes), dtype=np.uint8),
        scales=random.uniform(0.01, 0.02, tokens).astype(np.float16),
    )
    record = SimpleNamespace(
        passages=len(lengths),
        tokens=tokens,
        codes_file=SimpleNamespace(key=f"codes {name}"),
        centroids_file=SimpleNamespace(key=f"centroids {name}"),
    )
    outliers = random.random(tokens) < OUTLIERS_A_TOKEN
    touched = PassageCentroids(
        offsets=_offsets([len(own) for own in ids]),
        ids=np.concatenate(ids).astype(np.uint16),
        outlier_offsets=_offsets(np.add.reduceat(outliers.astype(np.int64), codes.offsets[:-1]).tolist()),
        outlier_codes=codes.codes[outliers],
        outlier_scales=codes.scales[outliers],
    )
    return HostSegment(record, codes, touched)


def _offsets(lengths: list[int]) -> NDArray[np.uint32]:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.uint32)


def drawn_on_device(passages: int, length: int, *, bits: int, dim: int, centroids: int) -> Resident:
    """One segment of passages of equal length, with centroid ids in proportion, drawn on the GPU."""
    device, tokens, ids = torch.device("cuda"), passages * length, passages * round(IDS_A_TOKEN * length)
    codes = torch.empty(tokens * dim * bits // 8, dtype=torch.uint8, device=device)
    for first in range(0, len(codes), _BLOCK):
        codes[first : first + _BLOCK].random_(0, 256)
    scales = torch.empty(tokens, dtype=torch.float16, device=device).uniform_(0.01, 0.02)
    wide, outliers = centroids > 1 << 16, tokens // _TOKENS_AN_OUTLIER
    drawn = torch.randint(0, centroids, (ids,), dtype=torch.int32, device=device)
    arrays = (
        _equal_offsets(passages, length),
        codes,
        scales,
        _equal_offsets(passages, round(IDS_A_TOKEN * length)),
        drawn if wide else drawn.to(torch.int16),
        (torch.arange(passages + 1, device=device) * outliers // passages).to(torch.int32),
        codes[: outliers * dim * bits // 8].clone(),
        scales[:outliers].clone(),
    )
    row = torch.zeros((1, len(Field)), dtype=torch.int64)
    row[0, ARRAYS] = torch.tensor([array.data_ptr() for array in arrays])
    return Resident(
        device=device,
        bits=bits,
        dim=dim,
        tokens=tokens,
        id_bytes=4 if wide else 2,
        segments=row.to(device),
        segment_of=torch.zeros(passages, dtype=torch.int32, device=device),
        outlier_segment_of=torch.zeros(outliers, dtype=torch.int32, device=device),
        centroid_codes=torch.randint(0, 256, (centroids, dim), dtype=torch.uint8, device=device),
        centroid_scales=torch.empty(centroids, dtype=torch.float16, device=device).uniform_(0.001, 0.002),
        uploads={"drawn": Upload(arrays, on_device=True)},
    )


def _equal_offsets(count: int, length: int) -> torch.Tensor:
    """In 32 bits, the highest of which may be set: kernels read them without a sign."""
    return (torch.arange(count + 1, device="cuda") * length).to(torch.int32)

"""The codes of a snapshot on a device: uploaded file by file, and shared with the snapshot before.

Every array keeps the place where it was uploaded, and a table of addresses says where. So a new version uploads
only the files that the one before did not have, nothing is ever moved, and one launch serves all segments.

Codes that do not fit the device's memory stay in pinned host memory: its addresses are the device's too, so a
kernel reads such codes over the bus, a passage at a time, and the table is all that tells them apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from index_format.codec import Codec
from serving.approximate import CodedCentroids
from serving.kernels.segments import ARRAYS, Field

if TYPE_CHECKING:
    from index_format.segment import SegmentReader

_BLOCK = 1 << 26  # bytes copied at once
_RESERVE = 4 << 30  # bytes of a device left for the encoder, the scores and the table of centroids


@dataclass(frozen=True, slots=True)
class Upload:
    """The arrays of one file, as bytes. on_device: False for codes that stayed in host memory."""

    arrays: tuple[Tensor, ...]
    on_device: bool

    @property
    def addresses(self) -> list[int]:
        return [array.data_ptr() for array in self.arrays]


@dataclass(frozen=True)
class Resident:
    """A snapshot's arrays where a device's kernels find them.

    segments: int64 [S, fields], as in serving/kernels/segments.py. segment_of: int32 [P], each passage's row of it.
    outlier_segment_of: int32 [outliers of all segments], the same for each outlier.
    centroid_codes: uint8 [C, D] and centroid_scales: float16 [C]. uploads: by the key of the file they come from.
    """

    device: torch.device
    bits: int
    dim: int
    tokens: int
    id_bytes: int
    segments: Tensor
    segment_of: Tensor
    outlier_segment_of: Tensor
    centroid_codes: Tensor
    centroid_scales: Tensor
    uploads: dict[str, Upload]

    @property
    def passages(self) -> int:
        return len(self.segment_of)

    @property
    def whole(self) -> bool:
        """Whether all codes are in the device's own memory."""
        return all(upload.on_device for upload in self.uploads.values())


def upload(
    segments: Sequence[SegmentReader],
    codec: Codec,
    centroids: CodedCentroids,
    device: torch.device,
    *,
    previous: Resident | None = None,
    room: int | None = None,
) -> Resident:
    """Bring what kernels need to a device. previous: whose uploads are shared.

    room: the bytes that new codes may take there, by default what the device has free, less a reserve.
    """
    held = previous.uploads if previous else {}
    left = _room(device) if room is None else room
    uploads: dict[str, Upload] = {}
    rows = np.zeros((len(segments), len(Field)), np.int64)
    for number, segment in enumerate(segments):
        codes_key, touched_key = segment.record.codes_file.key, segment.record.centroids_file.key
        codes = held.get(codes_key)
        if codes is None:
            arrays = segment.codes.arrays
            size = sum(array.nbytes for array in arrays)
            codes = _upload(arrays, device, on_device=size <= left)
            left -= size if codes.on_device else 0
        touched = held.get(touched_key) or _upload(segment.centroids.arrays, device)
        uploads |= {codes_key: codes, touched_key: touched}
        rows[number, ARRAYS] = [*codes.addresses, *touched.addresses]
    counts = np.array([segment.record.passages for segment in segments], np.int64)
    rows[1:, Field.FIRST_PASSAGE] = np.cumsum(counts)[:-1]
    outliers = np.array([len(segment.centroids.outlier_scales) for segment in segments], np.int64)
    rows[1:, Field.FIRST_OUTLIER] = np.cumsum(outliers)[:-1]
    numbers = torch.arange(len(segments), dtype=torch.int32, device=device)
    return Resident(
        device=device,
        bits=codec.bits,
        dim=codec.dim,
        tokens=sum(segment.record.tokens for segment in segments),
        id_bytes=segments[0].centroids.ids.itemsize if segments else 2,
        segments=torch.from_numpy(rows).to(device),
        segment_of=torch.repeat_interleave(numbers, torch.from_numpy(counts).to(device)),
        outlier_segment_of=torch.repeat_interleave(numbers, torch.from_numpy(outliers).to(device)),
        centroid_codes=torch.tensor(centroids.codes, device=device),
        centroid_scales=torch.tensor(centroids.scales, device=device),
        uploads=uploads,
    )


def _room(device: torch.device) -> int:
    """Bytes of codes that still fit a device; all of them on one that is the host itself."""
    if device.type != "cuda":
        return 1 << 62
    return torch.cuda.mem_get_info(device)[0] - _RESERVE


def _upload(arrays: Sequence[NDArray[np.generic]], device: torch.device, *, on_device: bool = True) -> Upload:
    """Copy arrays to the device, or to pinned memory of the host."""
    copies = []
    for array in arrays:
        raw = array.reshape(-1).view(np.uint8)
        if on_device:
            copy = torch.empty(len(raw), dtype=torch.uint8, device=device)
        else:
            copy = torch.empty(len(raw), dtype=torch.uint8, pin_memory=device.type == "cuda")
        for first in range(0, len(raw), _BLOCK):
            # By blocks, and each copied once more: the file is mapped read-only, which torch cannot borrow.
            copy[first : first + _BLOCK] = torch.from_numpy(raw[first : first + _BLOCK].copy())
        copies.append(copy)
    return Upload(tuple(copies), on_device)

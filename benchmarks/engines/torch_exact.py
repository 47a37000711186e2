"""Exact MaxSim in float32 by torch: one product of all token vectors, then a maximum for each passage."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from protocol import Vectors, serve


class TorchExact:
    """Brute force over vectors in memory."""

    def __init__(self, vectors: Vectors, threads: int) -> None:
        torch.set_num_threads(threads)
        self._tokens = torch.from_numpy(np.array(vectors.tokens, np.float32))
        self._lengths = torch.from_numpy(np.diff(vectors.offsets))

    def build(self, folder: Path, bits: int) -> None:  # noqa: ARG002
        folder.mkdir(parents=True, exist_ok=True)

    def open(self, folder: Path) -> None:
        pass

    def search(self, query: Any, k: int) -> list[int]:
        scores_TQ = self._tokens @ torch.from_numpy(query).T
        best = torch.segment_reduce(scores_TQ, "max", lengths=self._lengths, axis=0)
        found: list[int] = best.sum(dim=1).topk(k).indices.tolist()
        return found


if __name__ == "__main__":
    serve(TorchExact)

"""fast-plaid (https://github.com/lightonai/fast-plaid), PLAID in Rust on libtorch."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from fast_plaid import search
from protocol import Vectors, serve


class FastPlaid:
    """Built and searched with its defaults, a point's parameters excepted."""

    def __init__(self, vectors: Vectors, threads: int) -> None:
        torch.set_num_threads(threads)
        self._vectors = vectors
        self._index: Any = None

    def build(self, folder: Path, bits: int) -> None:
        index = search.FastPlaid(index=str(folder), device="cpu")
        index.create([_tensor(self._vectors.passage(n)) for n in range(self._vectors.passages)], nbits=bits)

    def open(self, folder: Path) -> None:
        self._index = search.FastPlaid(index=str(folder), device="cpu")

    def search(self, query: Any, k: int, **point: Any) -> list[int]:
        (hits,) = self._index.search(_tensor(query)[None], top_k=k, show_progress=False, **point)
        return [number for number, _ in hits]


def _tensor(array: Any) -> torch.Tensor:
    return torch.from_numpy(np.array(array, np.float32))


if __name__ == "__main__":
    serve(FastPlaid)

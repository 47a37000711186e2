"""xtr-warp-rs (https://github.com/jlscheerer/xtr-warp), WARP in Rust on libtorch."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from protocol import Vectors, serve
from xtr_warp.search import XTRWarp


class Warp:
    """Built and searched with its defaults, a point's parameters excepted."""

    def __init__(self, vectors: Vectors, threads: int) -> None:
        torch.set_num_threads(threads)
        self._vectors, self._threads = vectors, threads
        self._index: Any = None

    def build(self, folder: Path, bits: int) -> None:
        passages = [_tensor(self._vectors.passage(n)) for n in range(self._vectors.passages)]
        XTRWarp(index=str(folder)).create(passages, device="cpu", nbits=bits, show_progress=False)

    def open(self, folder: Path) -> None:
        self._index = XTRWarp(index=str(folder)).load("cpu")

    def search(self, query: Any, k: int, **point: Any) -> list[int]:
        (hits,) = self._index.search(
            _tensor(query)[None], top_k=k, num_threads=self._threads, show_progress=False, **point
        )
        return [number for number, _ in hits]


def _tensor(array: Any) -> torch.Tensor:
    return torch.from_numpy(np.array(array, np.float32))


if __name__ == "__main__":
    serve(Warp)

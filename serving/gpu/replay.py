"""Work of a fixed shape on a device, recorded once as a CUDA graph and then replayed in one launch."""

from __future__ import annotations

from collections.abc import Callable

import torch


class Replay:
    """Calls `work`, which reads and writes the same tensors each time, and never waits for the device.

    On a device without graphs each call runs it. On CUDA the first call compiles its kernels and runs it, the
    second records it, and each launches one graph from then on.
    """

    def __init__(self, work: Callable[[], None], device: torch.device) -> None:
        self._work = work
        self._device = device
        self._graph: torch.cuda.CUDAGraph | None = None
        self._compiled = False

    def __call__(self) -> None:
        if self._device.type != "cuda" or not self._compiled:
            self._work()
            self._compiled = True
            return
        if self._graph is None:
            self._graph = self._record()
        self._graph.replay()

    def _record(self) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize(self._device)
        # Other threads may use the device meanwhile: only what this one does is recorded.
        with torch.cuda.device(self._device), torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self._work()
        return graph

"""Work of a fixed shape on a device, recorded once as a CUDA graph and then replayed in one launch."""

from __future__ import annotations

from collections.abc import Callable

import torch


class Replay:
    """Calls `work`, which reads and writes the same tensors each time, and never waits for the device.

    On a device without graphs each call runs it. On CUDA the first call runs it, which compiles its kernels, and
    records it; from then on a call launches one graph.
    """

    def __init__(self, work: Callable[[], None], device: torch.device) -> None:
        self._work = work
        self._device = device
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self) -> None:
        if self._graph is not None:
            self._graph.replay()
            return
        self._work()
        if self._device.type == "cuda":
            self._graph = self._record()

    def _record(self) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize(self._device)
        # Other threads may use the device meanwhile: only what this one does is recorded.
        with torch.cuda.device(self._device), torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self._work()
        return graph

"""How much working memory a row needs: a figure from the layer table first, then what was measured."""

from __future__ import annotations

import math
from collections.abc import Hashable
from pathlib import Path

import torch

from convscope.recent import Recent
from workers.contract import Network
from workers.passes.replay import drop_replays

MEASURED_KEPT = 1024
LEAST_SHARE = 0.125
"""Of the estimate: bfloat16 halves it, and an early exit may leave a quarter of that."""
OUT_OF_MEMORY = (
    "out of memory", "can't allocate memory", "cublas_status_alloc_failed", "cufft_alloc_failed",
    "cudnn_status_alloc_failed", "unable to find an engine to execute this computation",
)  # fmt: skip
"""What torch and the libraries below it say, in lower case; the last is cuDNN's word where no workspace fits."""
_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that an allocation failed, on whichever device."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in OUT_OF_MEMORY)


def release_memory(error: BaseException) -> None:
    """Let go of what a failed allocation left behind, of steps kept for replaying, and of the allocator's cache.

    What it left behind are the frames of its traceback.
    """
    error.__traceback__ = None
    drop_replays()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def estimate_row_bytes(network: Network, pixels: int | None = None) -> int:
    """Bytes of one row from the layer table: every activation once forward and once backward, float32.

    Args:
        pixels: of the input, where a request overrides the network's own size.
    """
    once = {layer.order: layer for layer in network.layers.values() if not layer.container}
    numbers = sum(math.prod(layer.shape) for layer in once.values())
    own = network.input_size[0] * network.input_size[1]
    return int(2 * 4 * numbers * (pixels / own if pixels else 1.0))


class Meter:
    """Measures the peak of each slice and remembers the bytes of a row by kind of work.

    On CUDA the allocator knows its peak; on Linux the kernel does, and lets a process reset its own. Elsewhere
    estimates stay estimates.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._row_bytes: Recent[Hashable, float] = Recent(MEASURED_KEPT)
        self._before: int | None = None

    def begin(self) -> None:
        """A slice begins."""
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
            self._before = torch.cuda.memory_allocated(self._device)
            return
        try:
            _CLEAR_REFS.write_text("5")
            self._before = _resident("VmRSS")
        except OSError:
            self._before = None

    def end(self, key: Hashable, rows: int) -> None:
        """The slice is over; it computed that many rows of that kind."""
        if self._before is None:
            return
        if self._device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self._device)
        else:
            peak = _resident("VmHWM")
        measured = max(0, peak - self._before) / max(1, rows)
        self._row_bytes.put(key, max(measured, 0.9 * (self._row_bytes.get(key) or 0.0)))

    def row_bytes(self, key: Hashable, estimate: int) -> int:
        """Bytes to admit a row with: a fifth more than measured, or the estimate before anything was.

        A slice that fits into memory which an earlier one freed measures nothing; hence never below a share of it.
        """
        measured = self._row_bytes.get(key)
        return estimate if measured is None else int(max(1.2 * measured, LEAST_SHARE * estimate))


def _resident(field: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise OSError(f"{_STATUS} has no {field}")

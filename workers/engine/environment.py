"""What a process that computes sets for the libraries in it, before they are loaded; and what is compiled for it.

Run: python -m workers.engine.environment, to compile ahead of the first start.
"""

from __future__ import annotations

import ctypes
import logging
import os
from contextlib import suppress
from pathlib import Path

log = logging.getLogger(__name__)

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
KEPT_BYTES = 512 * 1024**2
"""Freed memory at the heap's end that stays this process's own."""

OWN_MAPPING_BYTES = 32 * 1024**2
"""Size from which an allocation gets pages of its own; the largest that the C library takes."""

VARIABLES = {
    # cuBLAS gives the same bits only with a workspace of its own; read when the library starts.
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    # numpy's BLAS would start threads when imported; what computes here is torch, which starts its own when asked.
    "OPENBLAS_NUM_THREADS": "1",
    # OpenMP's threads would spin for milliseconds after each operation, on the cores that convolutions need then. Not
    # to spin at all takes half as long again for networks of many small operations.
    "GOMP_SPINCOUNT": "20000",
}


def prepare_process(kept: str = "") -> None:
    """Set what the libraries read when they are loaded; what is set already stays.

    Args:
        kept: folder for what is compiled here, where it cannot be kept beside its source; empty for none.
    """
    for name, value in VARIABLES.items():
        os.environ.setdefault(name, value)
    if kept and not os.access(Path(__file__).parent, os.W_OK):
        os.environ.setdefault("NUMBA_CACHE_DIR", str(Path(kept) / "compiled"))
    # Memory of a step that is given back to the system is faulted in again at the next, which takes a tenth of it.
    with suppress(OSError, AttributeError):  # another C library has no such knob
        library = ctypes.CDLL(None)
        library.mallopt(_MMAP_THRESHOLD, OWN_MAPPING_BYTES)
        library.mallopt(_TRIM_THRESHOLD, KEPT_BYTES)


def compile_kernels() -> None:
    """Have the compiled parts of convolutions ready; where that cannot be, they are convolved by torch, or later."""
    try:
        from workers.compiled import pixel_loops, tile_transforms

        tile_transforms.compile_all()
        pixel_loops.compile_all()
    except (ImportError, OSError) as error:
        log.warning("nothing was compiled", extra={"error": f"{type(error).__name__}: {error}"})


if __name__ == "__main__":
    prepare_process()
    compile_kernels()

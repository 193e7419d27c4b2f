"""Images that lie in files, read when a method looks at them, so that a set of any size needs no memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import numpy as np
import torch
from torch import Tensor


class FileImages(Sequence[Tensor]):
    """Images in .npy files, uint8 H×W×3 or, of arrays, float32 H×W×C; each access reads its file.

    Args:
        paths: of the files, in order.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = list(paths)

    def __len__(self) -> int:
        return len(self._paths)

    @overload
    def __getitem__(self, index: int) -> Tensor: ...

    @overload
    def __getitem__(self, index: slice) -> list[Tensor]: ...

    def __getitem__(self, index: int | slice) -> Tensor | list[Tensor]:
        if isinstance(index, slice):
            return [self._read(path) for path in self._paths[index]]
        return self._read(self._paths[index])

    @staticmethod
    def _read(path: str) -> Tensor:
        pixels = np.load(path, allow_pickle=False)
        if pixels.ndim != 3 or ((pixels.dtype, pixels.shape[2]) != (np.uint8, 3) and pixels.dtype != np.float32):
            raise ValueError(f"{path} is neither an 8-bit colour image nor an array of planes")
        return torch.from_numpy(pixels)

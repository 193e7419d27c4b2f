"""Images that lie in files, read when a method looks at them, so that a set of any size needs no memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import numpy as np
import torch
from torch import Tensor


class FileImages(Sequence[Tensor]):
    """uint8 H×W×3 images in .npy files; each access reads its file.

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
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
            raise ValueError(f"{path} is no 8-bit colour image")
        return torch.from_numpy(pixels)

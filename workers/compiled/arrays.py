"""A tensor's own memory as compiled loops take it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Array = npt.NDArray[np.float32] | npt.NDArray[np.uint16]


def as_array(tensor: Tensor) -> Array:
    """The numbers of a float32 or bfloat16 tensor on the CPU, where they lie; bfloat16 as uint16."""
    array: Array = (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()
    return array


def pages_of(images: Tensor) -> Array:
    """N×C×H×W in channels_last as N×H×W×C, where it lies."""
    return as_array(images.permute(0, 2, 3, 1))

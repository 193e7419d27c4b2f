"""Networks as their owners write them: each breaks an assumption that libraries' networks keep."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Body(nn.Module):
    """A convolution, its mean over the map, three classes."""

    def __init__(self, planes: int = 3) -> None:
        super().__init__()
        self.one = nn.Conv2d(planes, 8, 3, padding=1)
        self.two = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Any:
        return self.two(F.relu(self.one(x)).mean((2, 3)))


class Flattened(nn.Module):
    """Flattens with view, as tutorials do; fixed to 32×32 pixels by its linear layer."""

    def __init__(self, planes: int = 3, rows: bool = True) -> None:
        super().__init__()
        self.one = nn.Conv2d(planes, 6, 5, padding=2)
        self.two = nn.Conv2d(6, 10, 3, padding=1)
        self.three = nn.Linear(10 * 8 * 8, 3)
        self.rows = rows

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.one(x)), 2)
        x = F.max_pool2d(F.relu(self.two(x)), 2)
        return self.three(x.view(x.size(0), -1) if self.rows else x.view(-1, 640))


class BatchStatistics(Body):
    """Normalises by the statistics of whatever batch it is given, also in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(8, track_running_stats=False)

    def forward(self, x: Tensor) -> Any:
        return self.two(F.relu(self.norm(self.one(x))).mean((2, 3)))


class OneAtATime(Body):
    """Takes a batch for one image."""

    def forward(self, x: Tensor) -> Any:
        return self.two(F.relu(self.one(x)).mean((2, 3)).view(1, 8))


class Dropping(Body):
    """Functional dropout whose author forgot `training=self.training`."""

    def forward(self, x: Tensor) -> Any:
        return self.two(F.dropout(F.relu(self.one(x)).mean((2, 3)), 0.5))


class Constant(Body):
    """Subtracts a tensor that is no buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1)

    def forward(self, x: Tensor) -> Any:
        return super().forward(x - self.mean)


class Coordinates(Body):
    """Makes a plane of coordinates."""

    def __init__(self) -> None:
        super().__init__(4)

    def forward(self, x: Tensor) -> Any:
        rows = torch.linspace(-1, 1, x.shape[2]).view(1, 1, -1, 1).expand(x.shape[0], 1, -1, x.shape[3])
        return super().forward(torch.cat([x, rows], 1))


class Branch(Body):
    """Looks at the values of its input."""

    def forward(self, x: Tensor) -> Any:
        return super().forward(x / 255 if float(x.max()) > 1000 else x)


class Numpy(Body):
    """Computes a constant with numpy inside its forward."""

    def forward(self, x: Tensor) -> Any:
        scale = torch.from_numpy(x.detach().cpu().numpy().std(axis=(1, 2, 3), keepdims=True))
        return super().forward(x / (scale + 1e-5))


class WithPlanesOfTime(Body):
    """Has a parameter of five dimensions, which knows no channels-last layout."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.randn(1, 1, 8, 1, 1))

    def forward(self, x: Tensor) -> Any:
        return self.two(F.relu(self.one(x) + self.bias[0]).mean((2, 3)))


class Mismatched(Body):
    """Its linear layer does not fit its convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.two = nn.Linear(9, 3)


class WeightNormed(nn.Module):
    """Old and new weight norm, and a spectral norm."""

    def __init__(self) -> None:
        super().__init__()
        self.old = torch.nn.utils.weight_norm(nn.Conv2d(3, 6, 3, padding=1))
        self.new = nn.utils.parametrizations.weight_norm(nn.Conv2d(6, 6, 3, padding=1))
        self.spectral = torch.nn.utils.spectral_norm(nn.Conv2d(6, 8, 3, padding=1))
        self.two = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(F.relu(self.spectral(F.relu(self.new(F.relu(self.old(x)))))).mean((2, 3)))


def body(planes: int = 3) -> nn.Module:
    return Body(planes)


def flattened() -> nn.Module:
    return Flattened()


def flattened_grey() -> nn.Module:
    return Flattened(1)


def flattened_rows() -> nn.Module:
    return Flattened(rows=False)


def batch_statistics() -> nn.Module:
    return BatchStatistics()


def one_at_a_time() -> nn.Module:
    return OneAtATime()


def dropping() -> nn.Module:
    return Dropping()


def constant() -> nn.Module:
    return Constant()


def coordinates() -> nn.Module:
    return Coordinates()


def branch() -> nn.Module:
    return Branch()


def numpy() -> nn.Module:
    return Numpy()


def with_planes_of_time() -> nn.Module:
    return WithPlanesOfTime()


def mismatched() -> nn.Module:
    return Mismatched()


def weight_normed() -> nn.Module:
    return WeightNormed()


def five_planes() -> nn.Module:
    return Body(5)


class Segmenter(nn.Module):
    """A map of logits for each of three classes."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, 6, 3, padding=1)
        self.classes = nn.Conv2d(6, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.classes(self.one(x).relu())  # type: ignore[no-any-return]


class ComplexWeights(Body):
    """Filters in the frequency domain, whose weights are complex."""

    def __init__(self) -> None:
        super().__init__()
        self.filters = nn.Parameter(torch.randn(3, 32, 17, dtype=torch.complex64))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(torch.fft.irfft2(torch.fft.rfft2(x) * self.filters))


def half() -> nn.Module:
    return Body().half()


def complex_weights() -> nn.Module:
    return ComplexWeights()


def compiled() -> nn.Module:
    return torch.compile(Body())  # type: ignore[return-value]


def scripted() -> nn.Module:
    network = Body()
    network.one = torch.jit.script(nn.Conv2d(3, 6, 3, padding=1))  # type: ignore[assignment]
    return network


def segmenter() -> nn.Module:
    return Segmenter()


def grey() -> nn.Module:
    return Body(1)

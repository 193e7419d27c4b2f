"""The numbers of one gradient ascent, as its resolved request states them, and its row's randomness."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from workers.contract import MethodError, Network, resolved
from workers.normalization import Normalization

if TYPE_CHECKING:
    from convscope.protocol.operations.maximize import MaximizeRequest


@dataclass(frozen=True)
class Recipe:
    """How a picture is parameterized, changed before the network sees it, and moved.

    Rows with equal recipes may be stepped in one tile. `convscope.protocol.operations.presets` states the sources of
    the numbers.

    Attributes:
        parameterization: pixel, fourier or maco.
        size: (height, width) of the picture.
        input_size: (height, width) of what the network sees: the picture's, or the network's own for crops.
        crop_steps: steps over which boxes shrink; 0 without boxes.
        planes: of the picture: 3 for colours, 1 for grey.
        mean, std: of the normalisation, in [0, 1] units, one for each plane.
        level: what white is to the network before the mean is subtracted: 1, or 255 for one that is fed bytes.
        most_views: of one picture's views, how many go through the network together.
    """

    parameterization: str
    size: tuple[int, int]
    input_size: tuple[int, int]
    planes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    optimizer: str
    learning_rate: float
    start_spread: float
    start_level: float | None = None
    start_distribution: str | None = None
    pixel_space: str | None = None
    clip_each_step: bool = False
    decay_power: float | None = None
    decorrelate: bool | None = None
    jitter: int = 0
    scale: float = 0.0
    rotate: int = 0
    jitter_after: int = 0
    crops: int = 1
    crop_from: float = 1.0
    crop_to: float = 1.0
    crop_size_sd: float = 0.0
    crop_center_sd: float = 0.0
    noise: float = 0.0
    noise_uniform: float = 0.0
    redirect_steps: int = 16
    tv: float = 0.0
    l2: float = 0.0
    decay: float = 0.0
    blur: float = 0.0
    blur_every: int = 0
    diversity: float = 0.0
    average: float = 0.0
    epsilon: float = 1e-8
    beta1: float = 0.9
    beta2: float = 0.999
    display: str = "clip"
    crop_steps: int = 0
    most_views: int = 4
    level: float = 1.0

    @property
    def normalization(self) -> Normalization:
        """How pictures become the network's input."""
        mean, std = (tuple(self.level * number for number in numbers) for numbers in (self.mean, self.std))
        return Normalization(mean, std, self.level)

    @property
    def views_per_slice(self) -> int:
        """Views that go through the network together: the largest divisor of `crops` up to `most_views`."""
        return max(count for count in range(1, self.most_views + 1) if self.crops % count == 0)

    @property
    def cropping(self) -> bool:
        """Whether views are boxes of the picture, resized, and not the whole picture moved about."""
        return self.crop_from < 1.0 or self.crop_to < 1.0 or self.input_size != self.size


VIEWS_PER_SLICE = 4
SLICE_PRODUCTS = 8e9
"""Multiplications of the convolutions in one forward of a slice's views, on a CPU, where interactive work waits for
slices: about a quarter of a second with their gradient. Gradients of more views are added up from slice to slice."""

_DERIVED = frozenset({
    "parameterization", "size", "input_size", "planes", "mean", "std", "optimizer", "crop_steps", "most_views", "level",
})  # fmt: skip
_NUMBERS = tuple(name for name in Recipe.__dataclass_fields__ if name not in _DERIVED)


def read_recipe(request: MaximizeRequest, network: Network) -> Recipe:
    """The recipe of a resolved request.

    Raises:
        MethodError: `not-applicable` where the parameterization cannot make this network's input.
    """
    size = _size(request)
    crops = resolved(request.crop_from) < 1.0 or resolved(request.crop_to) < 1.0
    input_size = (int(network.input_size[0]), int(network.input_size[1])) if crops else size
    planes, how = network.planes, network.normalization(getattr(request, "preprocess", None))
    if planes not in (1, 3) and request.parameterization == "maco":
        raise MethodError(
            "not-applicable",
            f"maco keeps the amplitudes of photographs, which have three colours or grey; {network.id} takes {planes} "
            "planes. parameterization=fourier or pixel makes pictures of as many",
        )
    return Recipe(
        parameterization=resolved(request.parameterization),
        size=size,
        input_size=input_size,
        planes=planes,
        mean=tuple(number / how.level for number in how.mean[:planes]),
        std=tuple(number / how.level for number in how.std[:planes]),
        level=how.level,
        optimizer=resolved(request.optimizer),
        crop_steps=resolved(request.steps) if crops else 0,
        most_views=_most_views(network, input_size),
        **{name: _number(request, name) for name in _NUMBERS},
    )


def _size(request: MaximizeRequest) -> tuple[int, int]:
    """(height, width) of a picture."""
    if isinstance(request.size, int):
        return request.size, request.size
    height, width = resolved(request.size)
    return int(height), int(width)


def _most_views(network: Network, input_size: tuple[int, int]) -> int:
    """From the layer table and not from a clock: how views are added up is a matter of bits."""
    if network.device.type != "cpu":
        return VIEWS_PER_SLICE
    convolutions = {layer.order: layer for layer in network.layers.values() if layer.kernel_shape}
    products = sum(
        math.prod(layer.shape) * math.prod((layer.kernel_shape or ())[1:]) for layer in convolutions.values()
    )
    larger = math.prod(input_size) / math.prod(network.input_size)
    return max(1, min(VIEWS_PER_SLICE, int(SLICE_PRODUCTS / max(products * larger, 1.0))))


def _number(request: MaximizeRequest, name: str) -> Any:
    """A number of a request; the default where a service older than the number resolved it."""
    default = Recipe.__dataclass_fields__[name].default
    given = getattr(request, name, default)
    return default if given is None and name in ("epsilon", "beta1", "beta2") else given


def generator_of(seed: int, copy: int, step: int, view: int | None = None) -> torch.Generator:
    """The generator of one row's step: a function of the request's seed, of which copy of an objective it is, and of
    the step alone, so that nothing has to be remembered for a resume. Step −1 makes the start. Each view of a step has
    another one for its noise, so that a slice of a step draws the noise of its own views only.
    """
    name = f"{seed}:{copy}:{step}" if view is None else f"{seed}:{copy}:{step}:{view}"
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)

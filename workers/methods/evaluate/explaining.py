"""Maps of one image by the methods that are judged, as those methods give them, and random maps of the same grain."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workers.contract import Grant, MethodError, Network, Outcome, Progress, Row, params
from workers.geometry import Transform
from workers.passes.class_targets import OTHER_SIDE

if TYPE_CHECKING:
    from convscope.protocol.operations.evaluate import EvaluateRequest
    from convscope.protocol.requests import Preprocess

RANDOM_MAPS, RANDOM_PIXELS = "random-maps", "random-pixels"
"""Random maps of a layer's grain, and of the input's."""

SALIENCY = frozenset({"gradient", "gradient-x-input", "guided", "smoothgrad", "vargrad", "integrated-gradients"})
INPUT_SIZED = SALIENCY | {"fullgrad", "guided-gradcam"}
_LOCAL = frozenset({"gradient", "guided", "smoothgrad", "vargrad", "guided-gradcam"})
"""Methods whose numbers are rates of change; those of the others are shares of the answer."""
_SUMMED = frozenset({"gradient-x-input", "integrated-gradients"})


@dataclass
class Judged:
    """What a method says of one image.

    Attributes:
        numbers: as the method gives them, C×H×W or H×W.
        map: H×W, larger is more important: a sum over planes where the numbers are shares of the answer, else their
            largest magnitude; a CAM as it is.
        local: whether the numbers are rates of change.
    """

    numbers: Tensor
    map: Tensor
    local: bool


def subjects_of(methods: Sequence[str]) -> list[str]:
    """The methods, and the random maps that stand beside them."""
    return [*methods, *dict.fromkeys(random_of(method) for method in methods)]


def random_of(method: str) -> str:
    """The random map of a method's grain."""
    return RANDOM_PIXELS if method in INPUT_SIZED else RANDOM_MAPS


class _Given:
    """A network whose inputs are there already, and whose weights may be others; all else is the network's own."""

    def __init__(self, network: Network, inputs: Tensor, transforms: Sequence[Transform], module: nn.Module | None):
        self._network, self._inputs, self._transforms = network, inputs, list(transforms)
        self._module = module
        self.module = network.module if module is None else module

    def __getattr__(self, name: str) -> Any:
        return getattr(self._network, name)

    def prepare(self, images: Sequence[Tensor], preprocess: Preprocess | None = None) -> tuple[Tensor, list[Transform]]:
        return self._inputs.clone(), self._transforms

    def fast_module(self) -> nn.Module:
        return self._network.fast_module() if self._module is None else self._module

    def lean_module(self, fast: bool) -> nn.Module:
        return self._network.lean_module(fast) if self._module is None else self._module


class Explainer:
    """Explains prepared inputs of one request.

    Args:
        network: whose answers are explained.
        request: of `evaluate`.
        grant: with the methods.
    """

    def __init__(self, network: Network, request: EvaluateRequest, grant: Grant) -> None:
        self._network, self._request, self._grant = network, request, grant

    def explain(
        self, x: Tensor, transform: Transform, target: str, draw: int, image: int, module: nn.Module | None = None
    ) -> Generator[Progress, None, dict[str, Judged]]:
        """Every subject's explanation of one input, by its name.

        Args:
            x: 1×C×H×W.
            target: a class index, or `-N`.
            draw: which random maps: others for each number.
            image: its place, for the random maps.
            module: with other weights; None for the network's own.

        Raises:
            MethodError: a method cannot be used here.
        """
        found: dict[str, Judged] = {}
        network = cast(Network, _Given(self._network, x, [transform], module))
        size = (int(x.shape[2]), int(x.shape[3]))
        for method in self._request.methods:
            if method in SALIENCY:
                outcome = yield from self._run("saliency", network, self._saliency(method, target))
                found[method] = _of_saliency(method, outcome.arrays["attribution"][0])
        cams = [method for method in self._request.methods if method not in SALIENCY]
        grain = size
        if cams:
            outcome = yield from self._run("cam", network, self._cam(cams, target))
            for method in cams:
                array = f"cam/{method}/{target}"
                numbers = outcome.arrays.get(f"{array}/full", outcome.arrays[array])[0]
                found[method] = _of_cam(method, numbers)
                if method not in INPUT_SIZED:
                    grain = (int(outcome.arrays[array].shape[1]), int(outcome.arrays[array].shape[2]))
        for subject in subjects_of(self._request.methods)[len(self._request.methods) :]:
            own = grain if subject == RANDOM_MAPS else size
            noise = self._noise(own, draw, image)
            whole = F.interpolate(noise[None, None], size, mode="bilinear", align_corners=False)[0, 0]
            found[subject] = Judged(whole, whole, local=False)
        return {name: found[name] for name in subjects_of(self._request.methods)}

    def _noise(self, size: tuple[int, int], draw: int, image: int) -> Tensor:
        seed = (int(self._request.seed) * 1_000_003 + image) * 10_007 + draw
        return torch.rand(size, generator=torch.Generator().manual_seed(seed % 2**63))

    def _run(self, operation: str, network: Network, request: dict[str, Any]) -> Generator[Progress, None, Outcome]:
        method = self._grant.methods[operation]
        row = Row(params(request), [torch.zeros(1, 1, 3, dtype=torch.uint8)])
        (result,) = yield from method.run(network, [row], self._grant)
        if isinstance(result, MethodError):
            raise result
        return result

    def _common(self) -> dict[str, Any]:
        request = self._request
        region = "all" if self._network.outputs.form == "planes" else None
        common = ("preprocess", "precision", "seed", "nonstandard_gate")
        return {**{name: getattr(request, name) for name in common}, "region": region, "mask": None}

    def _saliency(self, method: str, target: str) -> dict[str, Any]:
        """A request of `saliency` with its defaults; the line integral begins at what deleted pixels become."""
        own = {"method": method, "target": _wish(target), "baseline": self._request.deletion_fill}
        return {**self._common(), **own, "samples": 32, "noise": 0.1, "steps": 50, "max_steps": 400, "tolerance": 0.01}

    def _cam(self, methods: Sequence[str], target: str) -> dict[str, Any]:
        own = {"methods": list(methods), "layer": self._request.layer, "targets": [_wish(target)], "upsampled": True}
        return {**self._common(), **own}


def _wish(target: str) -> int | str:
    return target if target.startswith(OTHER_SIDE) else int(target)


def _of_saliency(method: str, numbers: Tensor) -> Judged:
    whole = numbers.sum(dim=0) if method in _SUMMED else numbers.abs().amax(dim=0)
    return Judged(numbers, whole, method in _LOCAL)


def _of_cam(method: str, numbers: Tensor) -> Judged:
    whole = numbers.abs().amax(dim=0) if numbers.dim() == 3 else numbers
    return Judged(numbers, whole, method in _LOCAL)

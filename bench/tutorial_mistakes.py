"""What public tutorials compute by mistake, written out, beside what is right: the table of docs/tutorials.md."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import skimage.data
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.driving import outcome
from bench.method_pictures import digit
from workers.contract import Network, Row, params
from workers.methods.cam import METHOD as CAM
from workers.methods.deconv import METHOD as DECONV
from workers.methods.feature_maps import METHOD as MAPS
from workers.methods.saliency import METHOD as SALIENCY
from workers.networks.build import load

COMMON: dict[str, Any] = {"precision": "exact", "preprocess": None, "seed": 0, "nonstandard_gate": False}


@dataclass(frozen=True)
class Mistake:
    """One row of the table: what is done, what comes of it, and what is right."""

    name: str
    mistaken: str
    right: str


def backwards(modules: Sequence[nn.Module], inputs: Tensor, seed: Tensor, biases: torch.Generator | None) -> Tensor:
    """A signal back through a chain by unpooling, ReLU and transposed convolution.

    Args:
        modules: convolutions, ReLUs and max-pools, from the pixels on.
        inputs: 1×C×H×W.
        seed: of the shape of the last module's output.
        biases: what a transposed convolution's own biases are drawn by, as a tutorial leaves them; None for none.
    """
    given, places = [], []
    x = inputs
    for module in modules:
        given.append(x)
        indices = None
        if isinstance(module, nn.MaxPool2d):
            how = (module.kernel_size, module.stride, module.padding, 1, module.ceil_mode)
            x, indices = F.max_pool2d(x, *how, return_indices=True)
        else:
            x = torch.relu(x) if isinstance(module, nn.ReLU) else module(x)
        places.append(indices)
    signal = seed
    for module, before, indices in reversed(list(zip(modules, given, places, strict=True))):
        if isinstance(module, nn.Conv2d):
            bias = None
            if biases is not None:
                reach = 1 / (module.weight[0].numel()) ** 0.5
                bias = (2 * torch.rand(module.in_channels, generator=biases) - 1) * reach
            padding = (int(module.padding[0]), int(module.padding[1]))
            signal = F.conv_transpose2d(signal, module.weight, bias, module.stride, padding)
        elif isinstance(module, nn.MaxPool2d) and indices is not None:
            flat = torch.zeros(*before.shape[:2], before.shape[2] * before.shape[3])
            signal = flat.scatter_add_(2, indices.flatten(2), signal.flatten(2)).view_as(before)
        elif isinstance(module, nn.ReLU):
            signal = signal.clamp(min=0)
    return signal


def likeness(one: Tensor, other: Tensor) -> float:
    """Pearson's correlation of all values."""
    return float(np.corrcoef(one.flatten().numpy(), other.flatten().numpy())[0, 1])


def mistakes() -> list[Mistake]:
    """Every row of the table."""
    network = load("digits")
    seven = torch.from_numpy(digit(7))
    with torch.no_grad():
        return [*_projections(network, seven), _overwritten(network, seven), _squared(network, seven), _predicted()]


def _projections(network: Network, image: Tensor) -> list[Mistake]:
    layer = network.layers["conv4"].name
    asked = {**COMMON, "layers": [layer], "channels": "all", "by": "max", "rule": "deconvnet", "switches": "sum"}
    inputs, _ = network.prepare([image])
    features = network.module.get_submodule(layer.rpartition(".")[0])
    modules = list(features.children())[: int(layer.rpartition(".")[2]) + 1]
    with torch.no_grad():
        activation = nn.Sequential(*modules)(inputs.clone())
    channel = int(activation[0].flatten(1).amax(1).argmax())
    with torch.enable_grad():
        whole = outcome(DECONV, network, Row(params({**asked, "seed_unit": "max"}), [image]))
    right = whole.arrays[f"projection/{layer}"][channel : channel + 1]
    place = int(activation[0, channel].argmax())
    alone = torch.zeros_like(activation)
    alone[0, channel].view(-1)[place] = activation[0, channel].view(-1)[place]
    checked = backwards(modules, inputs, alone, None)
    if float((checked - right).abs().max()) > 1e-5 * float(right.abs().max()):
        raise RuntimeError("the chain written out is not deconv's")
    kept = activation.clamp(min=0).clone()
    kept[0, : channel + 1] = alone[0, : channel + 1]
    behind = backwards(modules, inputs, kept, None)
    biased = backwards(modules, inputs, alone, torch.Generator().manual_seed(0))
    return [
        Mistake(
            "channels behind the strongest are not set to zero",
            f"the projection of channel {channel} and {activation.shape[1] - channel - 1} others: correlation "
            f"{likeness(behind, right):.2f}, {float(behind.abs().max() / right.abs().max()):.1f} times as large",
            "one unit alone; `seed_unit=layer` for all of them together",
        ),
        Mistake(
            "transposed convolutions keep the random biases they were made with",
            f"correlation {likeness(biased, right):.2f}; {100 * _outside(biased, right):.0f} % of the pixels that the "
            "unit does not see have a value",
            "no biases: a unit's projection is zero beyond its receptive field",
        ),
    ]


def _outside(found: Tensor, right: Tensor) -> float:
    """Share of the pixels at which the right projection is zero and another is not."""
    silent = right == 0
    return float((found[silent] != 0).float().mean())


def _overwritten(network: Network, image: Tensor) -> Mistake:
    layer = network.layers["conv2"].name
    asked = {**COMMON, "layers": [layer], "channels": "all", "by": "max"}
    maps = outcome(MAPS, network, Row(params(asked), [image])).arrays[f"maps/{layer}"]
    negative = float((maps < 0).float().mean())
    return Mistake(
        "a hook keeps a convolution's map, and the in-place ReLU behind it overwrites it",
        f"minimum 0.00; {100 * negative:.0f} % of the values are lost",
        f"the map as the convolution made it: minimum {float(maps.min()):.2f}",
    )


def _squared(network: Network, image: Tensor) -> Mistake:
    asked = {**COMMON, "method": "guided", "target": "predicted", "samples": 1, "noise": 0.1, "steps": 1,
             "max_steps": 1, "tolerance": 1.0, "baseline": "black"}  # fmt: skip
    with torch.enable_grad():
        found = outcome(SALIENCY, network, Row(params(asked), [image]))
    guided = found.arrays["attribution"]
    negative = float((guided < 0).float().mean())

    def half(values: Tensor) -> float:
        """Share of the pixels that make up half of the picture."""
        ordered = values.abs().flatten().sort(descending=True).values
        return float((ordered.cumsum(0) < ordered.sum() / 2).float().mean())

    return Mistake(
        "guided gradients are squared before they are drawn",
        f"no signs; half of the picture is in {100 * half(guided**2):.1f} % of the pixels",
        f"the gradient itself: {100 * negative:.0f} % of the values are negative, half of the picture is in "
        f"{100 * half(guided):.1f} %",
    )


def _predicted() -> Mistake:
    network, coffee = load("efficientnet_lite0"), torch.from_numpy(skimage.data.coffee().copy())
    spoon = next(index for index, name in enumerate(network.classes) if name.startswith("wooden spoon"))
    asked = {**COMMON, "methods": ["gradcam"], "layer": "bn2", "targets": ["predicted", spoon], "upsampled": False}
    with torch.enable_grad():
        found = outcome(CAM, network, Row(params(asked), [coffee]))
    predicted, wanted = (found.arrays[one["array"]][0].clamp(min=0) for one in found.facts["maps"])
    name = found.facts["maps"][0]["name"].partition(",")[0]
    return Mistake(
        "the map is of the predicted class, whatever class was asked for",
        f"the map of `{name}` for a wooden spoon: correlation {likeness(predicted, wanted):.2f}",
        "the class asked for, named on the picture: `targets=wooden spoon`",
    )

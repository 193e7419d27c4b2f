"""Further names for layers, the field's own: `conv5_1` (Caffe) is a convolution's output, `block5_conv1` (Keras) the
ReLU after it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from workers.contract import Layer
from workers.networks.sources import Source


def aliases_for(source: Source, layers: Sequence[Layer]) -> Mapping[str, tuple[str, ...]]:
    """Call name → further names, where the architecture has names of its own in the literature."""
    found = {call: tuple(names) for call, names in source.aliases.items()}
    if source.family in ("vgg", "alexnet"):
        for call, names in (vgg_names(layers) if source.family == "vgg" else alexnet_names(layers)).items():
            found[call] = (*found.get(call, ()), *names)
    taken = {layer.name for layer in layers}
    return {call: tuple(name for name in names if name not in taken) for call, names in found.items()}


def vgg_names(layers: Sequence[Layer]) -> dict[str, tuple[str, ...]]:
    """VGG: conv{b}_{i}, relu{b}_{i}, pool{b}, fc6 … as in Caffe; block{b}_conv{i}, block{b}_pool, fc1 … as in Keras."""
    names: dict[str, tuple[str, ...]] = {}
    block, inside, dense, after = 1, 0, 0, ""
    for layer in layers:
        if layer.container:
            continue
        if layer.kernel_shape is not None:
            inside += 1
            names[layer.name] = (f"conv{block}_{inside}",)
            after = "conv"
        elif layer.activation == "relu" and after == "conv":
            names[layer.name] = (f"relu{block}_{inside}", f"block{block}_conv{inside}")
            after = ""
        elif layer.kind in ("MaxPool2d", "max_pool2d") and inside:
            names[layer.name] = (f"pool{block}", f"block{block}_pool")
            block, inside = block + 1, 0
        elif layer.kind == "Linear":
            dense += 1
            names[layer.name] = (f"fc{dense + 5}",)
            after = "dense"
        elif layer.activation == "relu" and after == "dense":
            names[layer.name] = (f"relu{dense + 5}", f"fc{dense}")
            after = ""
    return names


def alexnet_names(layers: Sequence[Layer]) -> dict[str, tuple[str, ...]]:
    """AlexNet and ZFNet: conv1 … conv5, relu1 …, pool and norm with the number of the convolution before, fc6 … fc8."""
    names: dict[str, tuple[str, ...]] = {}
    number = 0
    for layer in layers:
        if layer.container:
            continue
        if layer.kernel_shape is not None or layer.kind == "Linear":
            number += 1
            names[layer.name] = (f"conv{number}" if layer.kernel_shape is not None else f"fc{number}",)
        elif layer.activation == "relu" and number:
            names[layer.name] = (f"relu{number}",)
        elif layer.kind in ("MaxPool2d", "max_pool2d") and number:
            names[layer.name] = (f"pool{number}",)
        elif "ResponseNorm" in layer.kind and number:
            names[layer.name] = (f"norm{number}",)
    return names

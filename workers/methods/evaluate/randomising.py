"""Networks whose weights become random, layer by layer: the randomisation test of Adebayo 2018 (section 3).

A layer is a convolution or a matrix product with what follows it up to the next one (its normalisation, its scales).
Weights are drawn anew as PyTorch draws them for an untrained module (`reset_parameters`, which also forgets running
statistics, as Quantus does); a parameter of a module without that gets normal numbers of its own mean and deviation.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from workers.contract import MethodError, Network


def layers_of(network: Network) -> list[list[str]]:
    """The names of the modules of each layer that has weights, from the first executed to the last."""
    order = {layer.name: layer.order for layer in network.layers.values()}
    held = [
        (order.get(name, len(order) + place), name, module)
        for place, (name, module) in enumerate(network.module.named_modules())
        if any(True for _ in module.parameters(recurse=False))
    ]
    groups: list[list[str]] = []
    for _, name, module in sorted(held, key=lambda one: one[0]):
        matrix = any(parameter.dim() > 1 for parameter in module.parameters(recurse=False))
        if matrix or not groups:
            groups.append([])
        groups[-1].append(name)
    return groups


def depths_of(layers: Sequence[Sequence[str]], count: int) -> list[int]:
    """Places of so many layers, evenly from the last to the first, both included."""
    last = len(layers) - 1
    if last < 0:
        raise MethodError("not-applicable", "the network has no weights that could become random")
    if count == 1 or last == 0:
        return [0] if last == 0 else [last]
    return list(dict.fromkeys(round(last * (1 - k / (count - 1))) for k in range(count)))


class RandomisedCopy:
    """A copy of a network's module whose layers become random.

    Args:
        network: left as it is.
        seed: of the weights; a layer's depend on it and on the layer alone.
    """

    def __init__(self, network: Network, seed: int) -> None:
        self.module: nn.Module = copy.deepcopy(network.module)
        self._layers, self._seed, self._device = layers_of(network), seed, network.device

    def randomise(self, place: int) -> None:
        """Draw the weights of one layer anew."""
        devices = [self._device] if self._device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), torch.no_grad():
            torch.manual_seed(self._seed * 1_000_003 + place)
            for name in self._layers[place]:
                module = self.module.get_submodule(name)
                reset = getattr(module, "reset_parameters", None)
                if callable(reset):
                    reset()
                    continue
                for parameter in module.parameters(recurse=False):
                    spread = parameter.std() if parameter.numel() > 1 else parameter.abs().mean()
                    parameter.copy_(torch.randn_like(parameter) * spread + parameter.mean())

    @contextmanager
    def alone(self, place: int) -> Iterator[nn.Module]:
        """The copy with that layer random, put back afterwards."""
        kept: dict[str, dict[str, Tensor]] = {}
        for name in self._layers[place]:
            module = self.module.get_submodule(name)
            kept[name] = {key: value.clone() for key, value in module.state_dict().items()}
        try:
            self.randomise(place)
            yield self.module
        finally:
            for name, state in kept.items():
                self.module.get_submodule(name).load_state_dict(state)

"""Networks some of whose layers run on compiled loops, for methods that run them hundreds of times on a CPU.

* Large 3×3 convolutions filter minimally, with a quarter of the multiplications; torch computes them by their
  definition, at the processor's peak. Minimal filtering rounds to 4e-6 of a layer's largest value in float32 (torch's
  own: 3e-7) and to 2 % of a layer in bfloat16 (0.2 %); a unit that close to a threshold may fall on its other side.
  A ReLU behind such a convolution, and a pooling behind that, are done in the same pass, unless somebody looks between.
* The first convolution's gradient is folded from one matrix product.
* Max-pooling of 2×2 pixels passes through memory once, with torch's values bit for bit.

See docs/decisions/0005, 0007, 0008 and 0011.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from itertools import chain, pairwise
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional

from workers.compiled.max_pooling import pool
from workers.compiled.minimal_filtering import LEAST_CHANNELS, TAPS, TransformedKernels, can_filter, convolve
from workers.compiled.thin_convolution import MOST_CHANNELS, convolve_thin

LEAST_MULTIPLICATIONS = 200_000_000
"""Of an image, by the definition, below which handing work to threads costs more than what is saved."""


LEAST_FOLDED = 5_000_000
"""Multiplications of a first convolution, below which the same holds of its gradient."""

LEAST_POOLED = 20_000
"""Outputs of a pooling, below which it does."""


def make_lean(network: nn.Module, shapes: Mapping[str, Sequence[int]], *, channels_last: bool = True) -> nn.Module:
    """A copy of the network with quicker layers, where there are any.

    Args:
        network: float32 or bfloat16, in evaluation mode, no weight requiring a gradient; not touched.
        shapes: C×H×W of the output of each module by name, at the network's own input size.
        channels_last: whether the network runs on maps of that layout; else quicker layers give contiguous ones.

    Returns:
        The copy, with the same weights in memory, or `network` itself where nothing would become quicker. It is
        differentiable once, with respect to its inputs. In float32 an image's result does not depend on the other
        images of its batch, bit for bit.
    """
    if any(tensor.device.type != "cpu" for tensor in network.parameters()):
        return network
    kinds = {name: _lean_kind(module, shapes.get(name, ())) for name, module in network.named_modules()}
    chosen = {name: kind for name, kind in kinds.items() if kind is not None}
    chosen |= {name: _LeanSequential for name, module in network.named_modules() if _has_pairs(name, module, chosen)}
    if not chosen or not can_filter():
        return network
    shared = {id(tensor): tensor for tensor in chain(network.parameters(), network.buffers())}
    lean = copy.deepcopy(network, shared)
    for name, kind in chosen.items():
        module = lean.get_submodule(name)
        module.__class__ = kind
        if isinstance(module, _LeanConv2d | _ThinConv2d):
            module.gives_contiguous = not channels_last
    return lean


def factor_bytes(network: nn.Module) -> int:
    """Bytes that the transformed kernels of a network take, of those convolutions that ran."""
    made = (module.kernels for module in network.modules() if isinstance(module, _LeanConv2d))
    return sum(kernels.nbytes for kernels in made if kernels is not None)


def _lean_kind(module: nn.Module, shape: Sequence[int]) -> type[nn.Module] | None:
    """What a module becomes, by the shape of its output at the network's own input size; None where it stays."""
    if len(shape) != 3:
        return None
    if _is_plain_convolution(module) and module.stride == (1, 1) and module.kernel_size == (TAPS, TAPS):
        few = min(module.in_channels, module.out_channels) < LEAST_CHANNELS
        if not few and module.padding in ((0, 0), (1, 1)) and _pays(module, *shape[1:]):
            return _LeanConv2d
    if _is_plain_convolution(module) and module.in_channels <= MOST_CHANNELS and _is_even(module):
        taps = module.kernel_size[0] ** 2  # one alone would be a product with a vector, whose bits depend on its place
        large = taps * module.in_channels * module.out_channels * shape[1] * shape[2] >= LEAST_FOLDED
        return _ThinConv2d if taps > 1 and large else None
    if type(module) is nn.MaxPool2d and _is_pooling_of_pairs(module):
        return _LeanMaxPool2d if shape[0] * shape[1] * shape[2] >= LEAST_POOLED else None
    return None


def _has_pairs(name: str, module: nn.Module, chosen: Mapping[str, type[nn.Module]]) -> bool:
    """Whether a ReLU follows one of the convolutions."""
    if type(module) is not nn.Sequential:
        return False
    prefix = f"{name}." if name else ""
    pairs = pairwise(module.named_children())
    kinds = (_LeanConv2d, _ThinConv2d)
    return any(chosen.get(prefix + own) in kinds and type(after) is nn.ReLU for (own, _), (_, after) in pairs)


def _is_plain_convolution(module: nn.Module) -> TypeGuard[nn.Conv2d]:
    return (
        type(module) is nn.Conv2d
        and module.dilation == (1, 1)
        and module.groups == 1
        and module.padding_mode == "zeros"
        and module.weight.dtype in (torch.float32, torch.bfloat16)
    )


def _is_even(module: nn.Conv2d) -> bool:
    """Whether rows and columns are treated alike, and no tap reads nothing but padding."""
    alike = (len(set(pair)) == 1 for pair in (module.kernel_size, module.stride, module.padding))
    return not isinstance(module.padding, str) and all(alike) and int(module.padding[0]) < module.kernel_size[0]


def _is_pooling_of_pairs(module: nn.MaxPool2d) -> bool:
    def both(number: Any) -> tuple[Any, ...]:
        return tuple(number) if isinstance(number, Sequence) else (number, number)

    windows = both(module.kernel_size) == both(module.stride) == (2, 2)
    plain = both(module.padding) == (0, 0) and both(module.dilation) == (1, 1)
    return windows and plain and not (module.ceil_mode or module.return_indices)


def _pays(convolution: nn.Conv2d, height: int, width: int) -> bool:
    """Whether it does at that size of the output."""
    product = convolution.in_channels * convolution.out_channels
    return TAPS * TAPS * product * height * width >= LEAST_MULTIPLICATIONS


class _LeanConv2d(nn.Conv2d):
    """A 3×3 convolution of stride 1 that filters minimally where the maps are large."""

    observed_as = nn.Conv2d
    gives_contiguous = False
    kernels: TransformedKernels | None = None

    def forward(self, inputs: Tensor, rectified: bool = False, pooled: bool = False) -> Tensor:
        """N×C×H×W → N×K×H′×W′; with the ReLU that follows where `rectified`, and the pooling where `pooled`."""
        padding = int(self.padding[0])
        sides = [side + 2 * padding - TAPS + 1 for side in inputs.shape[2:]]
        if inputs.dim() == 4 and _pays(self, *sides) and min(sides) > 1:
            if self.kernels is None:
                self.kernels = TransformedKernels(self.weight)
            made = convolve(inputs, self.kernels, self.bias, padding, rectified=rectified, pooled=pooled)
            return made.contiguous() if self.gives_contiguous else made
        found = super().forward(inputs)
        found = torch.relu_(found) if rectified else found
        return functional.max_pool2d(found, 2) if pooled else found


class _LeanSequential(nn.Sequential):
    """Modules one after the other; a convolution does what follows it as well, where it can."""

    observed_as = nn.Sequential

    def forward(self, inputs: Any) -> Any:
        """What its last module makes of them."""
        modules = list(self)
        while modules:
            first, what = modules[0], _in_one_pass(modules)
            inputs = first(inputs, **dict.fromkeys(what, True))
            del modules[: 1 + len(what)]
        return inputs


def _in_one_pass(modules: Sequence[nn.Module]) -> tuple[str, ...]:
    """What the first of the modules does of those that follow."""
    most = 2 if isinstance(modules[0], _LeanConv2d) else 1 if isinstance(modules[0], _ThinConv2d) else 0
    kinds = [type(module) for module in modules[1 : 1 + most]]
    for what in (("rectified", "pooled"), ("rectified",)):
        if kinds[: len(what)] == [nn.ReLU, _LeanMaxPool2d][: len(what)] and not _is_watched(*modules[: 1 + len(what)]):
            return what
    return ()


def _is_watched(*modules: nn.Module) -> bool:
    """Whether a forward hook looks at calls of the modules, or a mode at functions, and would miss one."""
    hooks = (hook for module in modules for hook in (*module._forward_hooks, *module._forward_pre_hooks))
    return torch._C._len_torch_function_stack() > 0 or next(hooks, None) is not None


class _ThinConv2d(nn.Conv2d):
    """A convolution that reads few channels, with a quicker gradient."""

    observed_as = nn.Conv2d
    gives_contiguous = False

    def forward(self, inputs: Tensor, rectified: bool = False) -> Tensor:
        """N×C×H×W → N×K×H′×W′; with the ReLU that follows where `rectified`."""
        if inputs.dim() == 4:
            how = (int(self.padding[0]), self.stride[0])
            made = convolve_thin(inputs, self.weight, self.bias, *how, rectified=rectified)
            return made.contiguous() if self.gives_contiguous else made
        return torch.relu_(super().forward(inputs)) if rectified else super().forward(inputs)


class _LeanMaxPool2d(nn.MaxPool2d):
    """Max-pooling of 2×2 pixels by one pass through memory."""

    observed_as = nn.MaxPool2d

    def forward(self, inputs: Tensor) -> Any:
        """N×C×H×W → N×C×h×w."""
        last = inputs.dim() == 4 and inputs.is_contiguous(memory_format=torch.channels_last)
        if not last or inputs.shape[1] == 1 or min(inputs.shape[2:]) < 2 or inputs.device.type != "cpu":
            return super().forward(inputs)
        return pool(inputs) if inputs.dtype in (torch.float32, torch.bfloat16) else super().forward(inputs)

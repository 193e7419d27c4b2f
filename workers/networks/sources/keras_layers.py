"""Layers of Keras as modules of torch.nn: N×C×H×W where Keras has N×H×W×C, weights in torch's order.

A layer with an activation inside is one module that ends with it, as in Keras, and has the two as its parts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workers.networks.sources.source import SourceError

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU, "relu6": nn.ReLU6, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh, "elu": nn.ELU, "selu": nn.SELU,
    "gelu": nn.GELU, "silu": nn.SiLU, "swish": nn.SiLU, "softplus": nn.Softplus, "mish": nn.Mish,
    "hard_sigmoid": nn.Hardsigmoid, "hard_silu": nn.Hardswish, "hard_swish": nn.Hardswish,
    "leaky_relu": lambda: nn.LeakyReLU(0.2), "softmax": lambda: nn.Softmax(dim=1),
    "log_softmax": lambda: nn.LogSoftmax(dim=1),
}  # fmt: skip

_PASSING = frozenset({
    "InputLayer", "Dropout", "SpatialDropout2D", "GaussianNoise", "GaussianDropout", "AlphaDropout",
    "ActivityRegularization", "RandomFlip", "RandomRotation", "RandomZoom", "RandomContrast", "RandomBrightness",
    "RandomTranslation", "RandomCrop", "Identity",
})  # fmt: skip
"""Layers that pass their input on when nothing is trained."""


def convert(layer: Any) -> nn.Module:
    """The module of one layer.

    Raises:
        SourceError: there is none for its class, or for what it was told.
    """
    kind = type(layer).__name__
    if kind in _PASSING:
        return nn.Identity()
    make = _LAYERS.get(kind)
    if make is None:
        raise SourceError(f"the Keras layer {layer.name} is a {kind}, which is not translated")
    made = make(layer)
    activation = getattr(layer, "activation", None) if kind in _WITH_ACTIVATION else None
    inside = _activation(activation, layer.name) if activation is not None else None
    return made if inside is None else _Activated(made, inside)


class _Activated(nn.Module):
    """A layer and the activation that is part of it."""

    def __init__(self, linear: nn.Module, activation: nn.Module) -> None:
        super().__init__()
        self.linear = linear
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """Both, one after the other."""
        return self.activation(self.linear(x))  # type: ignore[no-any-return]


def _activation(function: Any, name: str) -> nn.Module | None:
    named = getattr(function, "__name__", type(function).__name__)
    if named == "linear":
        return None
    if named not in _ACTIVATIONS:
        raise SourceError(f"the Keras layer {name} has the activation {named}, which is not translated")
    return _ACTIVATIONS[named]()


def _numbers(variable: Any) -> Tensor:
    return torch.from_numpy(np.array(variable.numpy() if hasattr(variable, "numpy") else variable, dtype=np.float32))


def _set(module: nn.Module, **tensors: Any) -> None:
    for name, tensor in tensors.items():
        if tensor is not None:
            setattr(module, name, nn.Parameter(_numbers(tensor) if not isinstance(tensor, Tensor) else tensor))


class SamePad(nn.Module):
    """Zeros around a map for ceil(side / stride) windows; the odd one is below and right, as Keras has it."""

    def __init__(
        self, kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int], fill: float
    ) -> None:
        super().__init__()
        self.kernel, self.stride, self.dilation, self.fill = kernel, stride, dilation, fill

    def forward(self, x: Tensor) -> Tensor:
        """The map with its margin."""
        sides = []
        for axis in (1, 0):
            side = int(x.shape[2 + axis])
            span = (self.kernel[axis] - 1) * self.dilation[axis] + 1
            total = max((math.ceil(side / self.stride[axis]) - 1) * self.stride[axis] + span - side, 0)
            sides += [total // 2, total - total // 2]
        return F.pad(x, sides, value=self.fill)


def _padded(module: Any, layer: Any, kernel: tuple[int, int], stride: tuple[int, int], fill: float) -> nn.Module:
    """The module, behind the margin that `same` asks for where torch's own padding cannot give it."""
    dilation = tuple(getattr(layer, "dilation_rate", (1, 1)))
    if layer.padding == "valid":
        return module  # type: ignore[no-any-return]
    if layer.padding != "same":
        raise SourceError(f"the Keras layer {layer.name} has the padding {layer.padding}, which is not translated")
    spans = [(kernel[k] - 1) * dilation[k] for k in range(2)]
    if stride == (1, 1) and all(span % 2 == 0 for span in spans) and hasattr(module, "padding_mode"):
        module.padding = (spans[0] // 2, spans[1] // 2)
        module._reversed_padding_repeated_twice = [spans[1] // 2] * 2 + [spans[0] // 2] * 2
        return module  # type: ignore[no-any-return]
    return nn.Sequential(SamePad(kernel, stride, (dilation[0], dilation[1]), fill), module)


def _conv(layer: Any) -> nn.Module:
    kernel = _numbers(layer.kernel)  # (rows, columns, in, out)
    size, stride = (int(kernel.shape[0]), int(kernel.shape[1])), tuple(layer.strides)
    made = nn.Conv2d(
        kernel.shape[2] * layer.groups, kernel.shape[3], size, stride, 0, tuple(layer.dilation_rate), layer.groups,
        layer.use_bias,
    )  # fmt: skip
    _set(made, weight=kernel.permute(3, 2, 0, 1).contiguous(), bias=layer.bias if layer.use_bias else None)
    return _padded(made, layer, size, stride, 0.0)


def _depthwise(layer: Any, kernel: Any = None, *, bias: bool | None = None) -> nn.Module:
    numbers = _numbers(layer.kernel if kernel is None else kernel)  # (rows, columns, in, multiplier)
    rows, columns, planes, several = numbers.shape
    stride, own_bias = tuple(layer.strides), layer.use_bias if bias is None else bias
    made = nn.Conv2d(planes, planes * several, (rows, columns), stride, 0, tuple(layer.dilation_rate), planes, own_bias)
    weight = numbers.permute(2, 3, 0, 1).reshape(planes * several, 1, rows, columns).contiguous()
    _set(made, weight=weight, bias=layer.bias if own_bias else None)
    return _padded(made, layer, (rows, columns), stride, 0.0)


def _separable(layer: Any) -> nn.Module:
    depthwise = _depthwise(layer, layer.depthwise_kernel, bias=False)
    numbers = _numbers(layer.pointwise_kernel)
    pointwise = nn.Conv2d(numbers.shape[2], numbers.shape[3], 1, bias=layer.use_bias)
    _set(pointwise, weight=numbers.permute(3, 2, 0, 1).contiguous(), bias=layer.bias if layer.use_bias else None)
    return nn.Sequential(depthwise, pointwise)


def _dense(layer: Any) -> nn.Module:
    if len(layer.input.shape) != 2:
        raise SourceError(f"the Keras layer {layer.name} is a Dense over maps, which is not translated")
    kernel = _numbers(layer.kernel)
    made = nn.Linear(kernel.shape[0], kernel.shape[1], layer.use_bias)
    _set(made, weight=kernel.T.contiguous(), bias=layer.bias if layer.use_bias else None)
    return made


def _normalisation(layer: Any) -> nn.Module:
    rank = len(layer.input.shape)
    axis = layer.axis if isinstance(layer.axis, int) else layer.axis[0]
    if axis % rank != rank - 1:
        raise SourceError(f"the Keras layer {layer.name} normalises axis {axis}, not the channels")
    mean, var = _numbers(layer.moving_mean), _numbers(layer.moving_variance)
    made: Any = (nn.BatchNorm2d if rank == 4 else nn.BatchNorm1d)(len(mean), eps=layer.epsilon)
    _set(
        made,
        weight=layer.gamma if layer.scale else torch.ones_like(mean),
        bias=layer.beta if layer.center else torch.zeros_like(mean),
    )
    made.running_mean, made.running_var = mean, var
    return made  # type: ignore[no-any-return]


def _max_pool(layer: Any) -> nn.Module:
    size, stride = tuple(layer.pool_size), tuple(layer.strides)
    return _padded(nn.MaxPool2d(size, stride), layer, size, stride, -math.inf)


def _average_pool(layer: Any) -> nn.Module:
    if layer.padding != "valid":
        raise SourceError(f"the Keras layer {layer.name} averages over a margin, which is not translated")
    return nn.AvgPool2d(tuple(layer.pool_size), tuple(layer.strides))


class GlobalPool(nn.Module):
    """The mean or the largest value of each map."""

    def __init__(self, pool: nn.Module, keep: bool) -> None:
        super().__init__()
        self.pool, self.keep = pool, keep

    def forward(self, x: Tensor) -> Tensor:
        """One number a channel."""
        pooled: Tensor = self.pool(x)
        return pooled if self.keep else pooled.flatten(1)


class FlattenMaps(nn.Module):
    """Maps as one row of numbers, in the order of Keras: position by position, all channels of each."""

    def forward(self, x: Tensor) -> Tensor:
        """N×(H·W·C)."""
        return x.permute(0, 2, 3, 1).flatten(1) if x.dim() == 4 else x.flatten(1)


class ScaleAndOffset(nn.Module):
    """x · scale + offset, numbers or one a channel."""

    scale: Tensor
    offset: Tensor

    def __init__(self, scale: Any, offset: Any, rank: int) -> None:
        super().__init__()
        shape = (1, -1, 1, 1) if rank == 4 else (1, -1)
        self.register_buffer("scale", torch.as_tensor(np.array(scale, np.float32)).reshape(shape))
        self.register_buffer("offset", torch.as_tensor(np.array(offset, np.float32)).reshape(shape))

    def forward(self, x: Tensor) -> Tensor:
        """Of every channel."""
        return x * self.scale + self.offset


def _standardised(layer: Any) -> nn.Module:
    mean = np.array(_numbers(layer.mean)).reshape(-1)
    deviation = np.maximum(np.sqrt(np.array(_numbers(layer.variance)).reshape(-1)), 1e-7)
    if layer.invert:
        raise SourceError(f"the Keras layer {layer.name} undoes a normalisation, which is not translated")
    return ScaleAndOffset(1.0 / deviation, -mean / deviation, len(layer.input.shape))


def _relu(layer: Any) -> nn.Module:
    limit, slope = layer.max_value, float(layer.negative_slope or 0.0)
    if layer.threshold or (limit is not None and slope):
        raise SourceError(f"the Keras layer {layer.name} is a ReLU with a threshold, which is not translated")
    if limit is not None:
        return nn.ReLU6() if limit == 6 else nn.Hardtanh(0.0, float(limit))
    return nn.LeakyReLU(slope) if slope else nn.ReLU()


def _zero_padding(layer: Any) -> nn.Module:
    (top, bottom), (left, right) = layer.padding
    return nn.ZeroPad2d((left, right, top, bottom))


def _upsampling(layer: Any) -> nn.Module:
    if layer.interpolation not in ("nearest", "bilinear"):
        raise SourceError(f"the Keras layer {layer.name} resizes by {layer.interpolation}, which is not translated")
    return nn.Upsample(scale_factor=tuple(float(one) for one in layer.size), mode=layer.interpolation)


class Unflattened(nn.Module):
    """A row of channels as maps of one unit, as gates of channels have them."""

    def forward(self, x: Tensor) -> Tensor:
        """N×C×1×1."""
        return x.reshape(len(x), -1, 1, 1)


def _reshape(layer: Any) -> nn.Module:
    target = tuple(layer.target_shape)
    if len(target) == 3 and target[:2] == (1, 1):
        return Unflattened()
    if len(target) == 1:
        return FlattenMaps()
    raise SourceError(f"the Keras layer {layer.name} reshapes to {target}, which is not translated")


class Merged(nn.Module):
    """Several inputs as one."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.how = kind

    def forward(self, *inputs: Any) -> Tensor:
        """Sum, product, mean, largest, or all channels side by side."""
        parts: list[Tensor] = list(inputs[0]) if isinstance(inputs[0], list | tuple) else list(inputs)
        if self.how == "Concatenate":
            return torch.cat(parts, 1)
        found = parts[0]
        for one in parts[1:]:
            if self.how in ("Add", "Average"):
                found = torch.add(found, one)
            elif self.how == "Multiply":
                found = torch.mul(found, one)
            elif self.how == "Maximum":
                found = torch.maximum(found, one)
            else:
                found = torch.sub(found, one)
        return found / len(parts) if self.how == "Average" else found


def _concatenate(layer: Any) -> nn.Module:
    rank = len(layer.output.shape)
    if layer.axis % rank != rank - 1:
        raise SourceError(f"the Keras layer {layer.name} joins axis {layer.axis}, not the channels")
    return Merged("Concatenate")


_WITH_ACTIVATION = frozenset({"Conv2D", "DepthwiseConv2D", "SeparableConv2D", "Dense"})

_LAYERS: dict[str, Callable[[Any], nn.Module]] = {
    "Conv2D": _conv, "DepthwiseConv2D": _depthwise, "SeparableConv2D": _separable, "Dense": _dense,
    "BatchNormalization": _normalisation, "MaxPooling2D": _max_pool, "AveragePooling2D": _average_pool,
    "GlobalAveragePooling2D": lambda layer: GlobalPool(nn.AdaptiveAvgPool2d(1), layer.keepdims),
    "GlobalMaxPooling2D": lambda layer: GlobalPool(nn.AdaptiveMaxPool2d(1), layer.keepdims),
    "Flatten": lambda layer: FlattenMaps(), "Reshape": _reshape,
    "Rescaling": lambda layer: ScaleAndOffset(layer.scale, layer.offset, len(layer.input.shape)),
    "Normalization": _standardised, "ReLU": _relu, "ZeroPadding2D": _zero_padding, "UpSampling2D": _upsampling,
    "LeakyReLU": lambda layer: nn.LeakyReLU(float(layer.negative_slope)),
    "ELU": lambda layer: nn.ELU(float(layer.alpha)), "Softmax": lambda layer: nn.Softmax(dim=1),
    "Activation": lambda layer: _activation(layer.activation, layer.name) or nn.Identity(),
    "Concatenate": _concatenate,
    **dict.fromkeys(("Add", "Subtract", "Multiply", "Average", "Maximum"), lambda layer: Merged(type(layer).__name__)),
}  # fmt: skip

"""Operators of ATen, as an exported program calls them, in the words of torch.nn and torch.nn.functional.

So a program looks to everything else like a network that was written: its convolutions are Conv2d, its rectifications
are seen by the rules, its pools have switches. An operator that is not listed stays as it is, and is computed alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _batch_norm(
    x: Tensor, weight: Any, bias: Any, mean: Any, var: Any, training: bool, momentum: float, eps: float, *_: Any
) -> Tensor:
    return F.batch_norm(x, mean, var, weight, bias, training, momentum, eps)


def _max_pool2d(
    x: Tensor, kernel: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1, ceil: bool = False
) -> Any:
    return F.max_pool2d(x, kernel, stride or None, padding, dilation, ceil)


def _avg_pool2d(
    x: Tensor, kernel: Any, stride: Any = (), padding: Any = 0, ceil: bool = False, pad: bool = True, by: Any = None
) -> Tensor:
    return F.avg_pool2d(x, kernel, stride or None, padding, ceil, pad, by)


def _nearest(x: Tensor, size: Any, scale: Any = None) -> Tensor:
    return F.interpolate(x, size=size, scale_factor=None if size is not None else _floats(scale), mode="nearest")


def _bilinear(x: Tensor, size: Any, corners: bool, scale: Any = None) -> Tensor:
    scales = None if size is not None else _floats(scale)
    return F.interpolate(x, size=size, scale_factor=scales, mode="bilinear", align_corners=corners)


def _floats(scale: Any) -> Any:
    return None if scale is None else [float(one) for one in scale]


def _layer_norm(x: Tensor, shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5, *_: Any) -> Tensor:
    return F.layer_norm(x, shape, weight, bias, eps)


def _group_norm(x: Tensor, groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5, *_: Any) -> Tensor:
    return F.group_norm(x, groups, weight, bias, eps)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "relu.default": F.relu, "relu_.default": torch.relu_, "relu6.default": F.relu6, "hardtanh.default": F.hardtanh,
    "hardtanh_.default": F.hardtanh_, "leaky_relu.default": F.leaky_relu, "leaky_relu_.default": F.leaky_relu_,
    "prelu.default": F.prelu, "elu.default": F.elu, "elu_.default": F.elu_, "selu.default": F.selu,
    "celu.default": F.celu, "silu.default": F.silu, "gelu.default": F.gelu, "mish.default": F.mish,
    "hardswish.default": F.hardswish, "hardsigmoid.default": F.hardsigmoid, "sigmoid.default": torch.sigmoid,
    "tanh.default": torch.tanh, "softplus.default": F.softplus, "clamp.default": torch.clamp,
    "clamp_.default": torch.clamp_, "clamp_min.default": torch.clamp_min, "clamp_min_.default": torch.clamp_min_,
    "conv2d.default": F.conv2d, "conv2d.padding": F.conv2d, "conv_transpose2d.input": F.conv_transpose2d,
    "linear.default": F.linear, "batch_norm.default": _batch_norm, "layer_norm.default": _layer_norm,
    "group_norm.default": _group_norm, "max_pool2d.default": _max_pool2d, "avg_pool2d.default": _avg_pool2d,
    "adaptive_avg_pool2d.default": F.adaptive_avg_pool2d, "adaptive_max_pool2d.default": F.adaptive_max_pool2d,
    "upsample_nearest2d.vec": _nearest, "upsample_bilinear2d.vec": _bilinear,
    "pixel_shuffle.default": F.pixel_shuffle, "dropout.default": F.dropout, "softmax.int": torch.softmax,
    "log_softmax.int": torch.log_softmax, "flatten.using_ints": torch.flatten, "cat.default": torch.cat,
    "add.Tensor": torch.add, "add_.Tensor": Tensor.add_, "sub.Tensor": torch.sub, "mul.Tensor": torch.mul,
    "mul_.Tensor": Tensor.mul_, "div.Tensor": torch.div, "matmul.default": torch.matmul, "mean.dim": torch.mean,
    "view.default": Tensor.view, "reshape.default": torch.reshape, "permute.default": torch.permute,
    "transpose.int": torch.transpose, "pad.default": F.pad, "squeeze.dim": torch.squeeze,
    "unsqueeze.default": torch.unsqueeze,
}  # fmt: skip
"""Operator and overload → the function that a network's author would have called."""

INPLACE = {"silu_.default": F.silu, "hardswish_.default": F.hardswish, "mish_.default": F.mish,
           "selu_.default": F.selu, "celu_.default": F.celu, "hardsigmoid_.default": F.hardsigmoid,
           "dropout_.default": F.dropout}  # fmt: skip
"""Operators that write into their input, whose function takes `inplace`."""


def _given(arguments: Sequence[Any], start: int, *defaults: Any) -> list[Any]:
    """Arguments from a place on, the operator's defaults for those that are left out."""
    given = list(arguments[start : start + len(defaults)])
    return given + list(defaults[len(given) :])


def _conv(a: Sequence[Any], get: Callable[[Any], Any]) -> nn.Module | None:
    weight, bias = get(a[1]), get(a[2]) if len(a) > 2 else None
    if not isinstance(weight, Tensor):
        return None
    stride, padding, dilation, groups = _given(a, 3, (1, 1), (0, 0), (1, 1), 1)
    # On the meta device: the program's own tensors take the place of parameters at once.
    made = nn.Conv2d(
        weight.shape[1] * groups, weight.shape[0], (weight.shape[2], weight.shape[3]), _pair(stride),
        padding if isinstance(padding, str) else _pair(padding), _pair(dilation), groups, bias is not None,
        device="meta",
    )  # fmt: skip
    return _filled(made, weight=weight, bias=bias)


def _linear(a: Sequence[Any], get: Callable[[Any], Any]) -> nn.Module | None:
    weight, bias = get(a[1]), get(a[2]) if len(a) > 2 else None
    if not isinstance(weight, Tensor):
        return None
    made = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    return _filled(made, weight=weight, bias=bias)


def _normalisation(a: Sequence[Any], get: Callable[[Any], Any]) -> nn.Module | None:
    weight, bias, mean, var = (get(one) for one in a[1:5])
    if a[5] or not isinstance(mean, Tensor) or (weight is None) != (bias is None):
        return None
    made = nn.BatchNorm2d(len(mean), eps=a[7], momentum=a[6], affine=weight is not None, device="meta")
    _filled(made, weight=weight, bias=bias)
    made.running_mean, made.running_var = mean.detach(), var.detach()
    made.num_batches_tracked = torch.tensor(0)
    return made


def _filled(module: nn.Module, **tensors: Any) -> nn.Module:
    for name, tensor in tensors.items():
        if tensor is not None:
            setattr(module, name, nn.Parameter(tensor.detach(), requires_grad=False))
    return module


def _pair(value: Any) -> Any:
    return (value[0], value[0]) if isinstance(value, list | tuple) and len(value) == 1 else (
        tuple(value) if isinstance(value, list | tuple) else value
    )  # fmt: skip


def _max_pool(a: Sequence[Any], _: Any) -> nn.Module:
    kernel, stride, padding, dilation, ceil = _given(a, 1, None, (), 0, 1, False)
    return nn.MaxPool2d(_pair(kernel), _pair(stride) or None, _pair(padding), _pair(dilation), ceil_mode=ceil)


def _avg_pool(a: Sequence[Any], _: Any) -> nn.Module:
    kernel, stride, padding, ceil, pad, by = _given(a, 1, None, (), 0, False, True, None)
    return nn.AvgPool2d(_pair(kernel), _pair(stride) or None, _pair(padding), ceil, pad, by)


def _hardtanh(a: Sequence[Any], _: Any, inplace: bool = False) -> nn.Module:
    low, high = _given(a, 1, -1.0, 1.0)
    return nn.ReLU6(inplace) if (low, high) == (0, 6) else nn.Hardtanh(low, high, inplace)


def _flatten(a: Sequence[Any], _: Any) -> nn.Module:
    return nn.Flatten(*_given(a, 1, 0, -1))


def _prelu(a: Sequence[Any], get: Callable[[Any], Any]) -> nn.Module | None:
    weight = get(a[1])
    return _filled(nn.PReLU(len(weight), device="meta"), weight=weight) if isinstance(weight, Tensor) else None


def _rest(kind: Callable[..., nn.Module], *defaults: Any) -> Callable[[Sequence[Any], Any], nn.Module]:
    """A module whose arguments are those of the operator after its input."""
    return lambda a, _: kind(*_given(a, 1, *defaults))


def _inplace(kind: Callable[..., nn.Module]) -> Callable[[Sequence[Any], Any], nn.Module]:
    return lambda a, _: kind(inplace=True)


MODULES: Mapping[str, Callable[[Sequence[Any], Callable[[Any], Any]], nn.Module | None]] = {
    "conv2d.default": _conv, "conv2d.padding": _conv, "linear.default": _linear, "batch_norm.default": _normalisation,
    "relu.default": _rest(nn.ReLU), "relu_.default": _inplace(nn.ReLU), "relu6.default": _rest(nn.ReLU6),
    "hardtanh.default": _hardtanh, "hardtanh_.default": lambda a, get: _hardtanh(a, get, inplace=True),
    "leaky_relu.default": _rest(nn.LeakyReLU, 0.01), "prelu.default": _prelu, "elu.default": _rest(nn.ELU, 1.0),
    "leaky_relu_.default": lambda a, _: nn.LeakyReLU(_given(a, 1, 0.01)[0], True),
    "selu.default": _rest(nn.SELU), "silu.default": _rest(nn.SiLU), "silu_.default": _inplace(nn.SiLU),
    "mish.default": _rest(nn.Mish), "mish_.default": _inplace(nn.Mish), "hardswish.default": _rest(nn.Hardswish),
    "hardswish_.default": _inplace(nn.Hardswish), "hardsigmoid.default": _rest(nn.Hardsigmoid),
    "hardsigmoid_.default": _inplace(nn.Hardsigmoid), "sigmoid.default": _rest(nn.Sigmoid),
    "tanh.default": _rest(nn.Tanh), "max_pool2d.default": _max_pool, "avg_pool2d.default": _avg_pool,
    "adaptive_avg_pool2d.default": lambda a, _: nn.AdaptiveAvgPool2d(_pair(a[1])),
    "adaptive_max_pool2d.default": lambda a, _: nn.AdaptiveMaxPool2d(_pair(a[1])),
    "flatten.using_ints": _flatten, "softmax.int": _rest(nn.Softmax, None),
    "log_softmax.int": _rest(nn.LogSoftmax, None),
}  # fmt: skip
"""Operator and overload → the module of torch.nn that one call of it is; from its arguments and a look at tensors."""

"""Heads and first convolutions put in the place of an architecture's own, as its users do before they train it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

from torch import nn

from workers.networks.sources.source import Options, SourceError

_PLAIN: dict[str, Callable[[], nn.Module]] = {
    "dropout": nn.Dropout,
    "flatten": nn.Flatten,
    "gelu": nn.GELU,
    "identity": nn.Identity,
    "log_softmax": functools.partial(nn.LogSoftmax, dim=1),
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
    "silu": nn.SiLU,
    "softmax": functools.partial(nn.Softmax, dim=1),
    "tanh": nn.Tanh,
}
_MOST_LAYERS = 32
_WIDEST = 65_536


def check_head(layers: Sequence[str]) -> None:
    """Refuse a head that names what there is not.

    Raises:
        SourceError: saying what a head is made of.
    """
    if not 0 < len(layers) <= _MOST_LAYERS:
        raise SourceError(f"head is a list of 1 to {_MOST_LAYERS} layers")
    for layer in layers:
        name, _, width = layer.partition(":")
        if name in ("linear", "batch_norm") and (not width or (width.isdecimal() and 0 < int(width) <= _WIDEST)):
            continue
        if layer not in _PLAIN:
            raise SourceError(f"head has linear, linear:WIDTH, batch_norm, {', '.join(_PLAIN)}; not {layer!r}")
    if not any(layer.startswith("linear") for layer in layers):
        raise SourceError("head has no linear layer")


def changed(build: Callable[[], nn.Module], options: Options, planes: int, classifier: str | None) -> nn.Module:
    """The network of a builder, with the head and the number of planes that the entry asks for.

    Args:
        build: of the library.
        options: what is asked for.
        planes: of the input that the builder's network takes.
        classifier: path of the library's own head; None finds the last linear layer.

    Raises:
        SourceError: there is no place for what is asked for.
    """
    network = build()
    if options.channels is not None and options.channels != planes:
        _replace_first_convolution(network, planes, options.channels)
    if options.head:
        _replace_head(network, options, classifier)
    return network


def _replace_first_convolution(network: nn.Module, planes: int, channels: int) -> None:
    """Another number of planes into the first convolution, everything else of it as it was."""
    for path, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            if module.in_channels != planes or module.groups != 1:
                break
            _put(
                network,
                path,
                nn.Conv2d(
                    channels,
                    module.out_channels,
                    module.kernel_size,  # type: ignore[arg-type]
                    module.stride,  # type: ignore[arg-type]
                    module.padding,  # type: ignore[arg-type]
                    module.dilation,  # type: ignore[arg-type]
                    bias=module.bias is not None,
                    padding_mode=module.padding_mode,
                ),
            )
            return
    raise SourceError(
        f"its first convolution cannot take {channels} planes; a factory of yours (python:module:factory) can be so"
    )


def _replace_head(network: nn.Module, options: Options, classifier: str | None) -> None:
    path = options.head_at or classifier or _last_linear(network)
    try:
        place = network.get_submodule(path)
    except AttributeError:
        raise SourceError(f"head.at names {path!r}, which the network has not") from None
    linear = next((module for module in place.modules() if isinstance(module, nn.Linear)), None)
    if linear is None:
        raise SourceError(f"{path} has no linear layer whose place a head could take; name another with head.at")
    width, outputs = linear.in_features, options.classes
    layers: list[nn.Module] = []
    last = max(k for k, layer in enumerate(options.head) if layer.startswith("linear"))
    for k, layer in enumerate(options.head):
        name, _, wide = layer.partition(":")
        if name == "linear":
            if not wide and k != last:
                raise SourceError("every linear of a head but its last says its width, as linear:256")
            if not wide and outputs is None:
                raise SourceError("a head needs classes or num_classes, or the width of its last linear")
            next_width = int(wide) if wide else int(outputs or 0)
            layers.append(nn.Linear(width, next_width))
            width = next_width
        elif name == "batch_norm":
            layers.append(nn.BatchNorm1d(width))
        else:
            layers.append(_PLAIN[name]())
    _put(network, path, layers[0] if len(layers) == 1 else nn.Sequential(*layers))


def _last_linear(network: nn.Module) -> str:
    paths = [path for path, module in network.named_modules() if isinstance(module, nn.Linear)]
    if not paths:
        raise SourceError("the network has no linear layer whose place a head could take; name a place with head.at")
    return str(paths[-1])


def _put(network: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    network.get_submodule(parent).__setattr__(name, module)

"""The layer table: every call of a network in execution order, from one run on the meta device, without weights."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from workers.contract import Layer
from workers.geometry import Box
from workers.networks.edges import Edges
from workers.networks.failures import RAISED, reason_of, rows_refusal
from workers.networks.geometry import Field, ReceptiveFields
from workers.passes.calls import ACTIVATIONS, CallObserver

RECTIFIERS = frozenset(
    {"relu", "relu6", "prelu", "leaky_relu", "elu", "selu", "celu", "silu", "gelu", "mish", "hardswish", "softplus"}
)
"""Activations that a rule of the deconvnet kind might act on; gates such as sigmoid are none."""

SMOOTH = frozenset({"elu", "selu", "celu", "silu", "gelu", "mish", "hardswish", "softplus"})
"""Rectifiers that let part of the negative side through, bent: deconvnet and guided rules are not defined for them."""


BETWEEN = frozenset({"add", "cat", "interpolate", "pixel_shuffle"})
"""Functions whose maps no module returns by itself."""


@dataclass(frozen=True)
class Table:
    """All calls of a network at one input size, in execution order.

    `channels_last` names calls whose output is H×W×C, `folded` those whose positions are arranged otherwise.
    """

    layers: tuple[Layer, ...]
    channels_last: frozenset[str]
    folded: frozenset[str]
    input_size: tuple[int, int]

    def by_name(self) -> dict[str, Layer]:
        """Every call by its name and its aliases."""
        table = {alias: layer for layer in self.layers for alias in layer.aliases}
        table.update({layer.name: layer for layer in self.layers})
        return table


@contextmanager
def without_initialisation() -> Iterator[None]:
    """While entered, parameters go to the meta device as they are registered, so that nothing is initialised.

    Numbers that constructors compute for themselves, and buffers, stay real: some constructors read them back, which
    the meta device cannot do. Networks that other threads build meanwhile are not touched.
    """
    before, _discarding.on = getattr(_discarding, "on", False), True
    try:
        yield
    finally:
        _discarding.on = before


@contextmanager
def with_values() -> Iterator[None]:
    """While entered, parameters keep their values, also within `without_initialisation`."""
    before, _discarding.on = getattr(_discarding, "on", False), False
    try:
        yield
    finally:
        _discarding.on = before


_discarding = threading.local()


def _discard(_module: nn.Module, _name: str, parameter: nn.Parameter | None) -> Any:
    """The parameter on the meta device, where this thread wants it so."""
    if parameter is None or parameter.is_meta or not getattr(_discarding, "on", False):
        return parameter
    return nn.Parameter(parameter.detach().to("meta"), requires_grad=parameter.requires_grad)


# Once, and never taken away: every thread that builds a network goes through the list of these hooks.
nn.modules.module.register_module_parameter_registration_hook(_discard)


def without_values(build: Callable[[], nn.Module]) -> nn.Module:
    """A new network whose parameters have no values yet, and take no time; buffers have their constructors' values.

    Constructors that read their parameters back (copies of them, spectra, sums) cannot be built so; their networks have
    the values that they begin with.
    """
    try:
        with without_initialisation():
            return build()
    except (RuntimeError, NotImplementedError):
        return build()


def meta_copy(build: Callable[[], nn.Module]) -> nn.Module:
    """The network without its weights, on the meta device, in evaluation mode.

    Constructors that read their parameters back may bear the meta device as a whole; else they are built plainly, which
    takes as long as their initialisation does.
    """
    try:
        with without_initialisation():
            network = build()
    except (RuntimeError, NotImplementedError):
        try:
            with torch.device("meta"):
                network = build()
        except (RuntimeError, NotImplementedError):
            network = build()
    return network.to("meta").eval() if isinstance(network, nn.Module) else network


def blank_input(network: nn.Module, input_size: tuple[int, int], channels: int) -> Tensor:
    """One input on the network's device: without values on the meta device, else noise, so that values differ."""
    device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    if device.type == "meta":
        return torch.empty(1, channels, *input_size, device=device)
    return torch.randn(1, channels, *input_size, generator=torch.Generator().manual_seed(0)).to(device)


def describe(
    network: nn.Module,
    input_size: tuple[int, int],
    channels: int = 3,
    aliases: Callable[[Sequence[Layer]], Mapping[str, tuple[str, ...]]] | None = None,
) -> Table:
    """Run the network once and write down its calls.

    Args:
        network: on the meta device (or on another; then the run costs a forward), in evaluation mode.
        input_size: (height, width), pixels.
        channels: planes of the input.
        aliases: further names for calls, found from the table.

    Returns:
        The table, with one-tensor outputs only; shapes are without the batch.
    """
    inputs = blank_input(network, input_size, channels)
    fields = ReceptiveFields(inputs)
    edges = Edges(inputs)
    found: list[Layer] = []
    last: set[str] = set()
    folded: set[str] = set()
    sides: set[tuple[int, ...]] = set()

    def visit(name: str, kind: str, module: nn.Module | None, output: Tensor) -> Tensor:
        if not output.is_floating_point():
            return output
        shape = tuple(int(side) for side in output.shape[1:])
        place = fields.field(output)
        arrangement = _arrangement(output, place, sides)
        if arrangement == "channels last":
            last.add(name)
        elif arrangement == "folded":
            folded.add(name)
        elif place is not None and len(shape) == 3:
            sides.add(shape[1:])
        layer = _layer(name, kind, module, len(found), shape, place.box() if place else None)
        tensor, read = edges.reported(name, output)
        found.append(replace(layer, inputs=read))
        return tensor

    with torch.no_grad(), fields, edges, CallObserver(network, visit):
        network(inputs)
    further = aliases(found) if aliases is not None else {}
    layers = tuple(replace(layer, aliases=further.get(layer.name, ())) for layer in found)
    return Table(layers, frozenset(last), frozenset(folded), input_size)


def _arrangement(output: Tensor, place: Field | None, sides: set[tuple[int, ...]]) -> str:
    """How a call's output is laid out: `maps` (C×H×W, or C), `channels last` (H×W×C) or `folded` (windows, unknown).

    Where positions were lost on the way (attention over windows), the sides of maps seen before and their halves
    (`sides`: heights and widths so far) tell which dimensions are height and width.
    """
    if output.dim() == 0 or output.shape[0] != 1:
        return "folded"
    if output.dim() != 4:
        return "maps"
    if place is not None:
        return "channels last" if place.dims == (1, 2) else "maps" if place.dims == (2, 3) else "folded"
    halves = {(height >> k, width >> k) for height, width in sides for k in range(6)}
    first, second, third = (int(side) for side in output.shape[1:])
    if (second, third) in halves and (first, second) not in halves:
        return "maps"
    return "channels last" if (first, second) in halves else "folded"


def _layer(
    name: str, kind: str, module: nn.Module | None, order: int, shape: tuple[int, ...], box: Box | None
) -> Layer:
    kernel = tuple(module.weight.shape) if isinstance(module, nn.Conv2d) else None
    call = int(name.rpartition("#")[2]) if "#" in name else 1
    container = module is not None and next(module.children(), None) is not None
    activation = None if container else ACTIVATIONS.get(kind.lower())
    return Layer(name, kind, order, shape, call, container, (), activation, kernel, box)


def is_max_pool(layer: Layer) -> bool:
    """Whether the call is a max-pool with windows, which has switches."""
    return layer.kind in ("MaxPool2d", "max_pool2d")


def keeps_map(layer: Layer) -> bool:
    """Whether the call passes its map on unchanged in evaluation, or resizes or reduces it: no map of its own."""
    return layer.kind.startswith(
        ("Dropout", "Identity", "Adaptive", "adaptive", "SelectAdaptive", "StochasticDepth", "interpolate", "Upsample")
    )


def accepts(network: nn.Module, input_size: tuple[int, int], channels: int = 3) -> str | None:
    """None when the network runs at that input size and gives one row of answers for one image, else why not.

    Args:
        network: on the meta device, or with values.
    """
    try:
        with torch.no_grad():
            output = network(blank_input(network, input_size, channels))
    except RAISED as error:
        return reason_of(error)
    reason = rows_refusal(output, input_size)
    return None if reason is None else f"it {reason}"

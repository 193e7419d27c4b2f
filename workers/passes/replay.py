"""A step's forward and backward recorded once and replayed, where launching its kernels takes longer than running them.

A step of an ascent is hundreds of small kernels, and a GPU often waits for the next one. A CUDA graph launches all of
them at once. Graphs are made for shapes that keep coming back, kept where they were measured to be quicker, and else
never tried again; a network without them computes as ever. See docs/decisions/0009.

What a replay gives, outputs and gradients alike, lies in memory that the next replay overwrites: read it within the
step, and keep only what was computed from it.

Only precision `fast` is replayed. Whether a graph pays is measured, and the bits of `exact` depend on no measurement.
"""

from __future__ import annotations

import gc
import inspect
import logging
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from convscope.recent import Recent
from workers.contract import Outputs
from workers.passes.scores import activations

log = logging.getLogger(__name__)

COMES_BACK = 8
"""Times that a shape is seen before a graph is made for it: making one costs about a dozen steps."""
GRAPHS_KEPT = 4
"""Of one network; the least recently used is let go."""
SHAPES_KEPT = 256
TRIES = 3
WORTH = 0.9
"""A graph is kept when a step takes at most this share of what it took without."""
CLOSE = 0.05
"""Of the numbers themselves, by which those of a replayed step may differ: other kernels may be chosen for it."""
LONGEST_S = 0.03
"""A step that takes longer keeps the device busy by itself, and trying would hold up short work."""
MOST_BYTES = 512 * 1024**2
"""A graph that holds more memory is not kept; on a GPU this, or its share of the memory there is."""
MOST_SHARE = 1 / 16

Function = Callable[[Tensor], tuple[Tensor, ...]]
"""Inputs N×C×H×W → outputs, differentiable; of a replayed one the outputs and the gradient are static buffers."""


@dataclass(frozen=True)
class Maker:
    """How functions are recorded on a device, and how time is told there.

    Attributes:
        record: a function and inputs of its shape → the replayed function, and the bytes that it holds.
        clock: seconds, once everything that was launched is done.
        most_bytes: that a graph may hold on the device of a tensor.
    """

    record: Callable[[Function, Tensor], tuple[Function, int]]
    clock: Callable[[], float]
    most_bytes: Callable[[Tensor], int] = lambda _: MOST_BYTES


@dataclass
class _Shape:
    """One set of layers at one shape of inputs: how often it came, its graph, or that it stays without one."""

    seen: int = 0
    needed: int = COMES_BACK
    replay: Function | None = None
    nbytes: int = 0
    eager: bool = False

    def drop(self) -> None:
        """Let the graph go; the next one is made only after twice as many steps, so that graphs do not take turns."""
        self.replay, self.nbytes, self.seen, self.needed = None, 0, 0, 2 * self.needed


class Replays:
    """The graphs of one network."""

    def __init__(self, maker: Maker) -> None:
        self._maker = maker
        self._shapes: Recent[Hashable, _Shape] = Recent(SHAPES_KEPT)

    @property
    def nbytes(self) -> int:
        """Bytes of device memory that the graphs hold."""
        return sum(shape.nbytes for shape in self._shapes.values())  # asked for by threads that load networks

    def run(self, function: Function, inputs: Tensor, key: Hashable) -> tuple[Tensor, ...]:
        """`function(inputs)`, replayed where that is quicker.

        Args:
            function: gives the same for the same key; not kept here, as it holds the network.
            inputs: requiring a gradient.
            key: what `function` computes.
        """
        shape = self._shape((key, tuple(inputs.shape), inputs.dtype))
        shape.seen += 1
        if shape.replay is None and not shape.eager and shape.seen >= shape.needed:
            self._settle(shape, function, inputs, key)
        return function(inputs) if shape.replay is None else shape.replay(inputs)

    def drop(self) -> bool:
        """Let go of all graphs; whether there was any."""
        held = [shape for shape in self._shapes.values() if shape.replay is not None]
        for shape in held:
            shape.drop()
        return bool(held)

    def _shape(self, key: Hashable) -> _Shape:
        shape = self._shapes.get(key)
        if shape is None:
            shape = _Shape()
            self._shapes.put(key, shape)
        return shape

    def _settle(self, shape: _Shape, function: Function, inputs: Tensor, key: Hashable) -> None:
        """Make a graph and keep it if it pays; else the shape stays without one."""
        told = {"layers": str(key), "shape": str(tuple(inputs.shape))}
        shape.eager = True
        try:
            plain = self._seconds(function, inputs)
            if plain > LONGEST_S:
                return
            replay, nbytes = self._maker.record(function, inputs)
            replayed = self._seconds(replay, inputs)
            _check(replay, function, inputs)
        except Exception as error:  # noqa: BLE001  (a step without a graph is always possible; what is broken shows there)
            log.warning("a step cannot be replayed", extra={**told, "error": f"{type(error).__name__}: {error}"})
            return
        most_bytes = self._maker.most_bytes(inputs)
        pays = replayed <= WORTH * plain and nbytes <= most_bytes
        log.info(
            "a step was recorded",
            extra={**told, "kept": pays, "plain_ms": 1000 * plain, "replayed_ms": 1000 * replayed, "bytes": nbytes},
        )
        if pays:
            shape.eager, shape.replay, shape.nbytes = False, replay, nbytes
            self._make_room()
        elif nbytes > most_bytes:  # a network that was loaded meanwhile may have been counted
            shape.eager = False
            shape.drop()

    def _make_room(self) -> None:
        held = [shape for shape in self._shapes.values() if shape.replay is not None]
        for shape in held[: max(0, len(held) - GRAPHS_KEPT)]:
            shape.drop()

    def _seconds(self, function: Function, inputs: Tensor) -> float:
        """The quickest of a few forwards with their backwards, after one to warm up."""
        taken = []
        for _ in range(1 + TRIES):
            began = self._maker.clock()
            leaf = inputs.detach().requires_grad_()
            outputs = function(leaf)
            torch.autograd.grad(outputs, leaf, [torch.ones_like(output) for output in outputs])
            taken.append(self._maker.clock() - began)
        return min(taken[1:])


def _check(replay: Function, function: Function, inputs: Tensor) -> None:
    """See that what was recorded computes: other numbers must give what the function gives for them.

    Raises:
        ValueError: they do not; nothing was recorded, or the network decides by its numbers what it does.
    """
    others = inputs.detach().flip(-1)
    found, expected = _looked_at(replay, others), _looked_at(function, others)
    for mine, own in zip(found, expected, strict=True):
        if not torch.linalg.vector_norm(mine - own) <= CLOSE * torch.linalg.vector_norm(own):
            raise ValueError("replayed steps are not what they were recorded from")


def _looked_at(function: Function, inputs: Tensor) -> list[Tensor]:
    """Outputs and the gradient of their sum, float32 copies."""
    leaf = inputs.clone().requires_grad_()
    outputs = function(leaf)
    seen = [output.detach().float().clone() for output in outputs]
    (slopes,) = torch.autograd.grad(outputs, leaf, [torch.ones_like(output) for output in outputs])
    return [*seen, slopes.float().clone()]


OTHERS_GO_ON = "capture_error_mode" in inspect.signature(torch.cuda.make_graphed_callables).parameters
"""Whether other threads may use the device during a capture; not before torch 2.15, which captures for the process."""
_CAPTURE: dict[str, Any] = {"capture_error_mode": "thread_local"} if OTHERS_GO_ON else {}


def _record_cuda(function: Function, inputs: Tensor) -> tuple[Function, int]:
    gc.collect()  # graphs that were let go are freed now, not during the capture, which forbids that
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved(inputs.device)
    sample = inputs.detach().clone().requires_grad_()
    made = torch.cuda.make_graphed_callables(function, (sample,), **_CAPTURE)
    torch.cuda.empty_cache()
    return cast(Function, made), max(0, torch.cuda.memory_reserved(inputs.device) - before)


def _cuda_clock() -> float:
    torch.cuda.synchronize()
    return time.perf_counter()


def _most_cuda_bytes(inputs: Tensor) -> int:
    return max(MOST_BYTES, int(MOST_SHARE * torch.cuda.get_device_properties(inputs.device).total_memory))


MAKERS: dict[str, Maker] = {"cuda": Maker(_record_cuda, _cuda_clock, _most_cuda_bytes)}
"""By type of device; where there is none, steps are never replayed."""

_of_networks: WeakKeyDictionary[nn.Module, Replays] = WeakKeyDictionary()
"""Graphs hold their network's memory and go with it."""


def can_replay(device: torch.device) -> bool:
    """Whether steps may be replayed there."""
    return device.type in MAKERS


def replayed_activations(
    module: nn.Module, inputs: Tensor, layers: Sequence[str], outputs: Outputs
) -> dict[str, Tensor]:
    """As `activations`, replayed where that is quicker; then what it gives is overwritten by the next call."""
    maker = MAKERS.get(inputs.device.type)
    if maker is None:
        return activations(module, inputs, layers, outputs)
    replays = _of_networks.setdefault(module, Replays(maker))

    def function(given: Tensor) -> tuple[Tensor, ...]:
        seen = activations(module, given, layers, outputs)
        return tuple(seen[name] for name in layers)

    return dict(zip(layers, replays.run(function, inputs, tuple(layers)), strict=True))


def replay_bytes(module: nn.Module) -> int:
    """Bytes of device memory that a network's graphs hold."""
    replays = _of_networks.get(module)
    return 0 if replays is None else replays.nbytes


def drop_replays() -> None:
    """Let go of every network's graphs: the memory is wanted."""
    dropped = [replays.drop() for replays in list(_of_networks.values())]
    if any(dropped):
        gc.collect()  # torch's classes for a graph refer to themselves and hold its buffers

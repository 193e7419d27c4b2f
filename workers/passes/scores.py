"""A network's answer, read in one way for every method: which tensor it is, what its shape means, and its logits.

A network may return a tensor, several, or a mapping; it may drop the batch's dimension, and it may end in a softmax or
a sigmoid, whose input is then the logit. What holds for a network is decided once (`workers.networks.outputs`) and
stands in its `Outputs`; here it is applied to what the network returned.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from workers.contract import MethodError, Outputs
from workers.passes.calls import capture

OUTPUT = ""
"""Stands for the network's output among layer names."""

_aten = torch.ops.aten
ENDINGS: dict[Any, str] = {
    F.softmax: "softmax", torch.softmax: "softmax", Tensor.softmax: "softmax", torch.special.softmax: "softmax",
    _aten.softmax.int: "softmax", _aten._softmax.default: "softmax",
    F.log_softmax: "log_softmax", torch.log_softmax: "log_softmax", Tensor.log_softmax: "log_softmax",
    torch.special.log_softmax: "log_softmax", _aten.log_softmax.int: "log_softmax",
    _aten._log_softmax.default: "log_softmax",
    torch.sigmoid: "sigmoid", torch.sigmoid_: "sigmoid", Tensor.sigmoid: "sigmoid", Tensor.sigmoid_: "sigmoid",
    torch.special.expit: "sigmoid", _aten.sigmoid.default: "sigmoid", _aten.sigmoid_.default: "sigmoid",
    F.logsigmoid: "log_sigmoid", _aten.log_sigmoid.default: "log_sigmoid",
}  # fmt: skip
"""Functions that make probabilities, or their logarithms, of logits."""

LINKS = {"softmax": "softmax", "log_softmax": "softmax", "sigmoid": "sigmoid", "log_sigmoid": "sigmoid"}
"""Ending → what makes a probability of its input."""


class Endings(TorchFunctionMode):
    """Sees a network's calls of softmax, sigmoid and their logarithms; one of them may pass its input on unchanged.

    Args:
        skipped: which call, from 0, gives back its input; None changes nothing.

    Attributes:
        nodes: kind and autograd node of each call so far, in order.
    """

    def __init__(self, skipped: int | None = None) -> None:
        super().__init__()
        self._skipped = skipped
        self.nodes: list[tuple[str, Any]] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        named = dict(kwargs or {})
        kind = ENDINGS.get(func)
        if kind is None:
            return func(*args, **named)
        if len(self.nodes) == self._skipped:
            self.nodes.append((kind, None))
            return args[0] if args else named.get("input", named.get("self"))
        output = func(*args, **named)
        self.nodes.append((kind, output.grad_fn if isinstance(output, Tensor) else None))
        return output


def as_logits(outputs: Outputs) -> AbstractContextManager[Any]:
    """While entered, a network that ends in a softmax or sigmoid gives that function's input: the logits."""
    return nullcontext() if outputs.ending is None else Endings(outputs.ending)


def answer(
    module: nn.Module,
    inputs: Tensor,
    outputs: Outputs,
    wanted: Collection[str] = (),
    change: Mapping[str, Callable[[Tensor], Tensor]] | None = None,
) -> tuple[dict[str, Tensor], Tensor]:
    """Outputs of the wanted layers for a batch, and the network's logits.

    Args:
        module: in evaluation mode.
        inputs: N×C×H×W.
        outputs: how the network's output is read.
        wanted, change: as for `workers.passes.calls.capture`.

    Returns:
        The layers' outputs by name; logits, float32, N×classes, or N×classes×h×w of a network that answers in maps.

    Raises:
        MethodError: `not-applicable`: the output is not what can be read, with what was found.
        KeyError: a layer's call never happened.
    """
    if outputs.refusal is not None:
        raise MethodError("not-applicable", outputs.refusal)
    with as_logits(outputs):
        seen, output = capture(module, inputs, wanted, change=change, to_output=True)
    return seen, read(outputs, output, len(inputs))


def raw_answer(module: nn.Module, inputs: Tensor, outputs: Outputs) -> Tensor:
    """The tensor that is read of the network's output, of whatever shape; logits where the network shows them.

    Raises:
        MethodError: `not-applicable`: there is no such tensor.
    """
    if outputs.refusal is not None:
        raise MethodError("not-applicable", outputs.refusal)
    with as_logits(outputs):
        return _member(outputs, module(inputs))


def logits_of(module: nn.Module, inputs: Tensor, outputs: Outputs) -> Tensor:
    """The network's logits for a batch, as `answer` reads them."""
    return answer(module, inputs, outputs)[1]


def activations(
    module: nn.Module, inputs: Tensor, layers: Collection[str], outputs: Outputs, most_images: int | None = None
) -> dict[str, Tensor]:
    """Outputs of the layers for a batch, the logits under OUTPUT; the forward stops after the last one wanted.

    Args:
        module: in evaluation mode.
        inputs: N×C×H×W.
        layers: names of calls, and OUTPUT.
        outputs: how the network's output is read.
        most_images: images of one forward, where the network takes no more; outputs of several are joined.

    Raises:
        MethodError: as `answer`.
        KeyError: a layer's call never happened.
    """
    if most_images is not None and len(inputs) > most_images:
        parts = [activations(module, part, layers, outputs) for part in torch.split(inputs, most_images)]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    named = [name for name in layers if name != OUTPUT]
    if OUTPUT not in layers:
        return capture(module, inputs, named)[0]
    seen, logits = answer(module, inputs, outputs, named)
    return {**seen, OUTPUT: logits}


def read(outputs: Outputs, output: Any, images: int) -> Tensor:
    """The logits in what a network returned for a number of images: N×classes or N×classes×h×w, float32.

    Raises:
        MethodError: `not-applicable`, with what was found.
    """
    return read_tensor(outputs, _member(outputs, output), images)


def _member(outputs: Outputs, output: Any) -> Tensor:
    try:
        tensor = member_of(output, outputs.member)
    except (LookupError, TypeError, AttributeError):
        tensor = None
    if not isinstance(tensor, Tensor):
        raise _misread(outputs, f"gave {describe(output)} this time")
    return tensor


def read_tensor(outputs: Outputs, tensor: Tensor, images: int) -> Tensor:
    """The logits in the tensor that is read of a network's output, as `read` gives them.

    Raises:
        MethodError: `not-applicable`, with what was found.
    """
    rows = with_batch(tuple(tensor.shape), images, outputs)
    if rows is None:
        raise _misread(
            outputs,
            f"gave {_sides(tensor.shape)} numbers for {images} image{'s' if images > 1 else ''} of this size",
        )
    # The very tensor where it can be: rules of the backward pass know it by its place in the graph.
    return _unlinked(outputs, (tensor if tuple(tensor.shape) == rows else tensor.reshape(rows)).float())


def _misread(outputs: Outputs, found: str) -> MethodError:
    each = "a number" if outputs.form == "scores" else "a map"
    return MethodError(
        "not-applicable",
        f"The network is known to answer each image by {each} for each of {outputs.count} classes, and {found}.",
    )


def with_batch(shape: Sequence[int], images: int, outputs: Outputs) -> tuple[int, ...] | None:
    """The shape with a dimension for the images and one for the classes, where it can be read so; else None.

    `squeeze()` drops dimensions of size one, the images' among them where there is one.
    """
    sides = tuple(int(side) for side in shape)
    candidates = []
    if sides[:1] == (images,):
        candidates += [sides, (images, 1, *sides[1:])]
    if images == 1:
        candidates += [(1, *sides), (1, 1, *sides)]
    for full in candidates:
        if len(full) == 2 and outputs.form == "scores" and full[1] == outputs.count:
            return full
        if len(full) == 4 and full[1] == outputs.count:
            if outputs.form == "planes":
                return full
            # A network that ends in convolutions and gives numbers at its own size gives maps at a larger one.
            if len(sides) > 2:
                return full[:2] if full[2] == full[3] == 1 else full
    return None


def member_of(output: Any, path: Sequence[str | int]) -> Any:
    """What a path of keys, attributes and places leads to in what a network returned."""
    for step in path:
        if isinstance(output, Mapping) or isinstance(step, int):
            output = output[step]
        else:
            output = getattr(output, step)
    return output


def _unlinked(outputs: Outputs, numbers: Tensor) -> Tensor:
    """Logits, from what is read: where the network ends in probabilities and hides their logits, by inverting that."""
    if outputs.ending is not None or outputs.ends_in is None or outputs.ends_in == "log_softmax":
        return numbers
    if outputs.ends_in == "softmax":
        return numbers.clamp_min(torch.finfo(torch.float32).tiny).log()
    probability = numbers.exp() if outputs.ends_in == "log_sigmoid" else numbers
    return torch.logit(probability, eps=_CLOSEST)


_CLOSEST = 1e-7
"""To 0 or 1 that a probability is taken, where its logit is found from it; float32 knows none nearer to 1."""


def probabilities(outputs: Outputs, logits: Tensor) -> Tensor | None:
    """The probability of each class, float64, of the logits' shape; None where the numbers are values.

    Args:
        logits: N×classes or N×classes×h×w, as `read` gives them.
    """
    if outputs.link == "value":
        return None
    exact = logits.double() if logits.device.type != "mps" else logits
    return exact.softmax(dim=1) if outputs.link == "softmax" else exact.sigmoid()


def describe(output: Any, depth: int = 0) -> str:
    """What a network returned, in words."""
    if isinstance(output, Tensor):
        kind = "" if output.is_floating_point() else f" of {str(output.dtype).removeprefix('torch.')}"
        return f"a tensor of {_sides(output.shape)}{kind}"
    name = type(output).__name__
    if isinstance(output, Mapping):
        parts = [f"{key}: {describe(value, depth + 1)}" for key, value in list(output.items())[:4]]
    elif isinstance(output, list | tuple):
        parts = [describe(value, depth + 1) for value in output[:4]]
    else:
        return f"a {name}"
    more = ", …" if len(output) > 4 else ""
    return f"a {name} of {len(output)} ({'; '.join(parts)}{more})" if depth < 2 else f"a {name} of {len(output)}"


def _sides(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape)) or "no dimensions"

"""What a network answers: which of its tensors, of which form, and whether its numbers are logits or probabilities.

Found once for each network, from a run on one image and one on two; how the network ends stands in the graph of that
run. `workers.passes.scores` reads every answer by what is found here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from workers.contract import Outputs
from workers.passes.scores import LINKS, Endings, describe, member_of, read

_PREFERRED = ("logits", "out")
"""Members of a mapping that are its answer, whatever else it has."""

_KINDS = {
    "SoftmaxBackward": "softmax", "SafeSoftmaxBackward": "softmax", "LogSoftmaxBackward": "log_softmax",
    "SigmoidBackward": "sigmoid", "LogSigmoidBackward": "log_sigmoid",
}  # fmt: skip
_UNCHANGED = {
    "ViewBackward", "UnsafeViewBackward", "ReshapeAliasBackward", "SqueezeBackward", "UnsqueezeBackward",
    "CloneBackward", "ToCopyBackward", "AliasBackward", "TBackward", "TransposeBackward", "PermuteBackward",
}  # fmt: skip
"""Autograd nodes that only rearrange numbers."""
_CLAMPS = {"ClampBackward", "ClampMinBackward", "ClampMaxBackward"}
_CHOICES = {
    "SelectBackward",
    "SliceBackward",
    "IndexBackward",
    "IndexSelectBackward",
    "SplitBackward",
    "UnbindBackward",
}
_JOINTS = {"CatBackward", "StackBackward"}
_ARITHMETIC = {
    "AddBackward", "SubBackward", "RsubBackward", "MulBackward", "DivBackward", "MeanBackward", "SumBackward",
    "PowBackward", "ExpBackward",
}  # fmt: skip
_FREE = {
    "AddmmBackward",
    "MmBackward",
    "ConvolutionBackward",
    "MkldnnConvolutionBackward",
    "UpsampleBilinear2DBackward",
}
"""Nodes whose results may be any numbers: nobody need try whether they are probabilities."""

_MOST_NODES = 200
_SUM_SHARE = 1e-4
"""By which a row of probabilities may miss 1."""


@dataclass(frozen=True)
class _Ending:
    """How a network ends.

    Attributes:
        kind: softmax, log_softmax, sigmoid, log_sigmoid; None: in none of them.
        call: which of its calls gives the whole output, but for its shape; None where it does not.
        derived: whether the output was computed further from softmaxes or sigmoids, by arithmetic.
        free: whether its numbers may be any.
    """

    kind: str | None = None
    call: int | None = None
    derived: bool = False
    free: bool = False


def find_outputs(
    network: nn.Module,
    inputs: Callable[[int], Tensor],
    output: str | int | None = None,
    meaning: str | None = None,
    trained: Callable[[], nn.Module] | None = None,
) -> Outputs:
    """What a network answers.

    Args:
        network: in evaluation mode, on the meta device or with values.
        inputs: number of images → inputs for it, on its device.
        output: which member of several the catalogue chooses; a path may have dots.
        meaning: softmax, sigmoid or value, where the catalogue says so.
        trained: gives the network with values, where its numbers have to be looked at.

    Raises:
        RuntimeError, ValueError, …: what the network raises on one image.
    """
    one, nodes = _run(network, inputs(1))
    size = (int(inputs(1).shape[2]), int(inputs(1).shape[3]))
    two = None if _has_batch(one) else _of_two(network, inputs)
    for returned, images in ((two, 2), (one, 1)):
        if returned is None:
            continue
        found = _choose(returned, images, size, output)
        if isinstance(found, Outputs):
            found = replace(found, read=_named(found.member, one))
            return _meant(network, inputs, found, member_of(one, found.member), nodes, meaning, trained)
    return Outputs(form="none", count=0, link="value", refusal=_refusal(one, output))


def assumption(outputs: Outputs, name: str) -> str | None:
    """What was assumed of the numbers that a network of its owner's gives, and how to say what is true.

    Args:
        outputs: of the network.
        name: of the network.
    """
    if outputs.known != "assumed" or outputs.refusal is not None:
        return None
    unsaid = f"Nobody said what the numbers of {name} mean, and nothing in it shows"
    if outputs.link == "softmax":
        return (
            f"{unsaid}: a softmax over its classes is assumed. Where one image may be of several classes its entry "
            'must say outputs = "sigmoid".'
        )
    return f'{unsaid}: no probability is told. If they are logits its entry must say outputs = "sigmoid".'


def _has_batch(returned: Any) -> bool:
    """Whether one image's answer is a tensor that has the images' dimension beyond doubt."""
    return isinstance(returned, Tensor) and returned.dim() in (2, 4) and returned.shape[0] == 1


def _of_two(network: nn.Module, inputs: Callable[[int], Tensor]) -> Any:
    """What the network returns for two images; None where it takes one at a time."""
    try:
        return _run(network, inputs(2))[0]
    except Exception:  # noqa: BLE001  (whatever it raises, it takes one image at a time)
        return None


def _run(network: nn.Module, inputs: Tensor) -> tuple[Any, list[tuple[str, Any]]]:
    """What the network returns, with its graph where it can have one."""
    try:
        with torch.enable_grad(), Endings() as endings:
            # No leaf: networks may begin with an operation in place.
            return network(inputs.detach().requires_grad_().clone()), endings.nodes
    except RuntimeError:
        with torch.no_grad():
            return network(inputs), []


def _choose(returned: Any, images: int, size: tuple[int, int], wish: str | int | None) -> Outputs | None:
    """The tensor that is read, and its form; None where there is none."""
    if wish is not None:
        path = _path_of(wish)
        try:
            member = member_of(returned, path)
        except (LookupError, TypeError, AttributeError):
            return None
        form = _form_of(member, images, size)
        return None if form is None else replace(form, member=path)
    candidates = [(path, form) for path, tensor in _members(returned) if (form := _form_of(tensor, images, size))]
    candidates.sort(key=lambda one: one[1].form != "scores")  # stable: the first of numbers, else the first of maps
    return replace(candidates[0][1], member=candidates[0][0]) if candidates else None


def _path_of(wish: str | int) -> tuple[str | int, ...]:
    parts = [wish] if isinstance(wish, int) else wish.split(".")
    return tuple(int(part) if isinstance(part, str) and part.isdecimal() else part for part in parts)


def _named(path: tuple[str | int, ...], returned: Any) -> str:
    text = "output" + "".join(f"[{step!r}]" for step in path)
    return f"{text} of {describe(returned)}" if path else "the output"


def _members(returned: Any) -> Iterator[tuple[tuple[str | int, ...], Tensor]]:
    """The tensors that may be the answer: of a mapping the preferred one, else its only one."""
    if isinstance(returned, Tensor):
        yield (), returned
        return
    if named := _by_name(returned):
        chosen = next(([name] for name in _PREFERRED if isinstance(named.get(name), Tensor)), None)
        if chosen is None and (not isinstance(returned, tuple)):
            tensors = [name for name, value in named.items() if isinstance(value, Tensor)]
            chosen = tensors if len(tensors) == 1 else []
        if chosen is not None:
            yield from (((name,), named[name]) for name in chosen)
            return
    if isinstance(returned, list | tuple):
        for place, value in enumerate(returned):
            if isinstance(value, Mapping):
                yield from (((place, *path), tensor) for path, tensor in _members(value))
            elif isinstance(value, Tensor):
                yield (place,), value


def _by_name(returned: Any) -> dict[Any, Any]:
    """The members of a mapping, a named tuple or a data class by name."""
    if isinstance(returned, Mapping):
        return dict(returned)
    if isinstance(returned, tuple) and hasattr(returned, "_fields"):
        return dict(zip(returned._fields, returned, strict=True))
    if is_dataclass(returned):
        return {field.name: getattr(returned, field.name) for field in fields(returned)}
    return {}


def _form_of(tensor: Any, images: int, size: tuple[int, int]) -> Outputs | None:
    """The form of a tensor that a network returned for a number of images; None where it is no answer."""
    if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
        return None
    sides = tuple(int(side) for side in tensor.shape)
    if sides[:1] == (images,):
        rest: tuple[int, ...] | None = sides[1:]
    elif images == 1 and (len(sides) != 2 or _like(sides, size)):
        rest = sides  # squeezed: the images' dimension was dropped with the others of size one
    else:
        return None
    if not rest:
        return Outputs(form="scores", count=1)
    if len(rest) == 1 or (len(rest) == 3 and rest[1:] == (1, 1)):
        return Outputs(form="scores", count=rest[0]) if rest[0] else None
    if len(rest) == 3 and min(rest) > 0:
        return Outputs(form="planes", count=rest[0])
    if len(rest) == 2 and _like(rest, size):
        return Outputs(form="planes", count=1)
    return None


def _like(sides: Sequence[int], size: tuple[int, int]) -> bool:
    """Whether a map has the proportions of the input: one plane of a segmentation, its dimension of one dropped."""
    return min(sides) > 1 and sides[0] * size[1] == sides[1] * size[0]


def _refusal(returned: Any, wish: str | int | None) -> str:
    if wish is not None:
        return (
            f"The catalogue reads output = {wish!r} of this network, which is no tensor of one row an image there: it "
            f"gives {describe(returned)}"
        )
    choice = "" if isinstance(returned, Tensor) else "; output = … in the catalogue chooses one of several"
    return (
        f"This network gives {describe(returned)} for one image. Its answer must be numbers for classes (images × "
        f"classes) or maps for classes (images × classes × height × width){choice}"
    )


def _meant(
    network: nn.Module,
    inputs: Callable[[int], Tensor],
    found: Outputs,
    tensor: Tensor,
    nodes: list[tuple[str, Any]],
    meaning: Any,
    trained: Callable[[], nn.Module] | None,
) -> Outputs:
    """What the numbers are: declared, recognised by the network's end, or assumed."""
    ending = _ending(tensor, nodes, found)
    link: Any = LINKS.get(ending.kind or "")
    if meaning == "value":
        return replace(found, link="value", known="declared")
    if link is not None:
        if meaning is not None and meaning != link:
            return replace(
                found,
                form="none",
                refusal=f"The catalogue says outputs = {meaning!r}, and the network ends in a {ending.kind}",
            )
        return replace(found, link=link, known="recognised", ends_in=ending.kind, ending=ending.call)
    if meaning == "softmax" and found.count == 1:
        return replace(
            found, form="none", refusal="The catalogue says outputs = 'softmax', and the network has a single output"
        )
    if meaning != "sigmoid" and found.count > 1 and not ending.free and _adds_up(network, inputs, found, trained):
        return replace(found, link="softmax", known="recognised", ends_in="softmax")
    if meaning is not None:
        return replace(found, link=meaning, known="declared")
    plain = found.count == 1 or ending.derived
    return replace(found, link="value" if plain else "softmax", known="assumed")


def _ending(tensor: Tensor, nodes: list[tuple[str, Any]], found: Outputs) -> _Ending:
    """How the tensor came to be, by its graph."""
    calls = {id(node): (kind, number) for number, (kind, node) in enumerate(nodes) if node is not None}
    node, whole, chosen = tensor.grad_fn, True, False
    for _ in range(_MOST_NODES):
        if node is None:
            return _Ending()
        name = _name(node)
        kind, call = calls.get(id(node), (_KINDS.get(name), None))
        if kind is not None:
            return _of_function(kind, call if whole else None, node, found, chosen)
        if name in _JOINTS | _ARITHMETIC:
            kinds = _leaves(node, calls)
            if name in _JOINTS and kinds and kinds <= {"softmax", "sigmoid"}:
                return _Ending("sigmoid")  # each its own probability
            return _Ending(derived=bool(kinds) and None not in kinds)
        if name not in _UNCHANGED | _CLAMPS | _CHOICES:
            return _Ending(free=name in _FREE)
        whole = whole and name in _UNCHANGED
        chosen = chosen or name in _CHOICES
        node = node.next_functions[0][0]
    return _Ending()


def _of_function(kind: str, call: int | None, node: Any, found: Outputs, chosen: bool) -> _Ending:
    """A network that ends in a softmax or sigmoid, perhaps in a part of what that gives."""
    if LINKS[kind] == "softmax":
        if chosen:
            # Some of several classes: each has its own probability, and they need not add up to one.
            return _Ending("sigmoid") if kind == "softmax" else _Ending(derived=True)
        dimension, dimensions = int(node._saved_dim), len(node._saved_result.shape)
        if dimension >= 2**63:
            dimension -= 2**64
        classes = 1 if dimensions in (2, 4) else 0
        if dimension % max(dimensions, 1) != classes or found.count == 1:
            return _Ending(derived=True)
    return _Ending(kind, call)


def _leaves(node: Any, calls: Mapping[int, tuple[str, int]]) -> set[str | None]:
    """The kinds of function that arithmetic begins from; None among them for anything else."""
    kinds: set[str | None] = set()
    todo: list[Any] = [node]
    seen: set[int] = set()
    while todo and len(seen) < _MOST_NODES:
        one = todo.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        name = _name(one)
        kind = calls[id(one)][0] if id(one) in calls else _KINDS.get(name)
        if kind is not None:
            kinds.add(kind)
        elif name in _UNCHANGED | _CLAMPS | _CHOICES | _JOINTS | _ARITHMETIC:
            todo.extend(parent for parent, _ in one.next_functions)
        elif name != "AccumulateGrad":
            kinds.add(None)
    return kinds


def _name(node: Any) -> str:
    """`SqueezeBackward` of `SqueezeBackward1`."""
    name: str = node.name()
    return name.rstrip("0123456789").removeprefix("torch::autograd::")


def _adds_up(
    network: nn.Module, inputs: Callable[[int], Tensor], found: Outputs, trained: Callable[[], nn.Module] | None
) -> bool:
    """Whether the numbers of every image are probabilities that add up to one, whatever the image."""
    if trained is not None:
        network = trained()
    shape = inputs(1).shape
    noise = 3.0 * torch.randn(shape, generator=torch.Generator().manual_seed(0))
    for sample in (noise, noise.flip(2) - 1.0):
        with torch.no_grad():
            numbers = read(replace(found, link="value"), network(sample), 1)
        inside = bool(((numbers >= 0) & (numbers <= 1)).all())
        if not inside or bool((numbers.sum(dim=1) - 1).abs().max() > _SUM_SHARE):
            return False
    return True

"""Why a network does not run, in words that its author can use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

RAISED = (
    RuntimeError, ValueError, TypeError, AttributeError, AssertionError, LookupError, ArithmeticError, ImportError,
    NotImplementedError, OSError,
)  # fmt: skip
"""What networks raise that cannot run, or factories that cannot build: anything but a wish to end the process."""

_LONGEST = 300


def reason_of(error: BaseException) -> str:
    """The first line of what an exception says; its kind where it says nothing."""
    text = str(error).strip()
    if isinstance(error, KeyError):
        text = f"there is no {text}"
    return text.splitlines()[0].rstrip(".:")[:_LONGEST] if text else type(error).__name__


def where_it_fails(network: nn.Module, inputs: Tensor) -> str:
    """In which module a forward that is known to fail does so, as ` in head.fc (Linear …)`; empty where in none."""
    stack: list[tuple[str, nn.Module, Any]] = []
    handles = []
    for path, module in network.named_modules():

        def enter(module: nn.Module, given: Any, path: str = path) -> None:
            stack.append((path, module, given))

        def leave(_module: nn.Module, _given: Any, _output: Any) -> None:
            stack.pop()

        handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
    try:
        with torch.no_grad(), suppress(*RAISED):
            network(inputs)
            stack.clear()
    finally:
        for handle in handles:
            handle.remove()
    if not stack or not stack[-1][0]:
        return ""
    path, module, given = stack[-1]
    return f", in {path} ({type(module).__name__}{_wanted(module, given)})"


def _wanted(module: nn.Module, given: Any) -> str:
    """What a layer of torch's takes and what it was given, where that is the trouble."""
    first = given[0] if isinstance(given, tuple) and given else None
    if not isinstance(first, Tensor):
        return ""
    got = "×".join(map(str, first.shape))
    if isinstance(module, nn.Linear) and first.shape[-1:] != (module.in_features,):
        return f", which takes {module.in_features} numbers an image and is given {got}"
    if isinstance(module, nn.Conv2d) and first.dim() == 4 and first.shape[1] != module.in_channels:
        return f", which takes {module.in_channels} planes and is given {first.shape[1]}"
    return f", given {got}"


def outputs_of(output: Any) -> Iterator[Tensor]:
    """Every tensor of floating numbers in what a network returned, the preferred one of a mapping first."""
    if isinstance(output, Tensor):
        if output.is_floating_point():
            yield output
    elif isinstance(output, Mapping):
        for key in sorted(output, key=lambda key: (key not in ("logits", "out"),)):
            yield from outputs_of(output[key])
    elif isinstance(output, list | tuple):
        for one in output:
            yield from outputs_of(one)


def rows_refusal(output: Any, size: tuple[int, int] | None = None) -> str | None:
    """Why what a network returned for one image is not one row of answers, if it is not.

    Rows are those of a matrix, rows × answers: `x.view(-1, K)` makes several of one image at a size that the network
    was not written for, and the next image would be given an answer of the one before. A matrix with the proportions of
    the input's `size` is a map whose dimension of one was dropped.
    """
    if isinstance(output, list) and output and all(isinstance(one, Mapping) for one in output):
        return None  # a mapping an image, as detectors return
    outputs = list(outputs_of(output))
    if not outputs:
        return None
    first = outputs[0]
    if size is not None and first.dim() == 2 and first.shape[0] * size[1] == first.shape[1] * size[0]:
        return None
    return f"gives {len(first)} rows of answers for one image" if first.dim() == 2 and len(first) != 1 else None

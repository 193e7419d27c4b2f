"""Edges of the layer table: which calls' outputs each call was computed from, followed through one run of a network.

Every tensor carries the names of the calls that it was computed from with no other reported call between. An operator
unites those of what it reads; a reported call replaces them by its own name. A container that hands on its last child's
tensor so has that child for its one input, and one that adds a shortcut has both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

INPUT = "@input"
"""Stands for the network's input; no module or function of a network has this name."""


class Edges(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows calls from tensor to tensor while it is entered.

    Args:
        inputs: the network's input.
    """

    def __init__(self, inputs: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        # Insertion order stands for the order in which an operator reads. Tensors are kept alive with their origins:
        # a table by identity must not see an address used again.
        self._origins: dict[int, tuple[Tensor, dict[str, None]]] = {}
        self._given: set[int] = set()
        """Tensors that a call gave, unchanged since."""
        self._note(inputs, {INPUT: None})

    def reported(self, name: str, output: Tensor) -> tuple[Tensor, tuple[str, ...]]:
        """A call gives its output.

        Args:
            name: of the call.
            output: what it gave.

        Returns:
            The tensor that the network goes on with, and the call's inputs. Where the call hands on what it was given,
            the tensor is another view of it: whoever reads it from elsewhere is not taken for a reader of this call.
        """
        inputs = self._origins.get(id(output), (output, {}))[1]
        tensor = torch.ops.aten.alias(output) if id(output) in self._given else output
        self._note(tensor, {name: None})
        self._given.add(id(tensor))
        return tensor, tuple(inputs)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operator and note what its outputs were computed from."""
        output = func(*args, **(kwargs or {}))
        origins: dict[str, None] = {}
        for leaf in tree_leaves((args, kwargs or {})):
            if isinstance(leaf, Tensor) and id(leaf) in self._origins:
                origins |= self._origins[id(leaf)][1]
        if origins:
            for result in tree_leaves(output):
                if isinstance(result, Tensor):
                    self._note(result, origins)
        return output

    def _note(self, tensor: Tensor, origins: dict[str, None]) -> None:
        self._origins[id(tensor)] = (tensor, origins)
        self._given.discard(id(tensor))  # an operator in place makes it another one

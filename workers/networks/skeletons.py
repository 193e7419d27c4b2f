"""Networks without their weights: how many parameters they have, their layer tables, the sizes they accept.

On the meta device, where nothing is computed; a network that does not run there (constants that are no buffers, a
branch on values, numpy inside) is built and run for real, once, on the CPU.
"""

from __future__ import annotations

import functools
import threading

import torch
from torch import Tensor, nn

from workers.contract import MethodError, Outputs
from workers.networks import weights as weight_files
from workers.networks.catalogue import Entry
from workers.networks.failures import RAISED, reason_of, where_it_fails
from workers.networks.layers import Table, accepts, blank_input, describe, meta_copy
from workers.networks.names import aliases_for
from workers.networks.outputs import find_outputs

_lock = threading.RLock()
"""A skeleton is shared by whoever asks for shapes, and an observer's hooks are no business of a second one."""


def skeleton(entry: Entry) -> nn.Module:
    """The entry's network, in evaluation mode: on the meta device, or with untrained weights where it needs values.

    Raises:
        MethodError: `weights-unavailable` where the architecture cannot be built, `network-does-not-run` where it is
            built and does not run on its own input.
    """
    source = entry.source_or_raise()
    try:
        network = meta_copy(source.build)
        if not isinstance(network, nn.Module):
            raise weight_files.refuse(f"{source.name} builds no torch network but a {type(network).__name__}")
        if accepts(network, entry.transform.size, entry.transform.channels) is not None:
            with torch.random.fork_rng(devices=[]):
                network = source.build().eval().requires_grad_(False)
    except RAISED as error:
        raise weight_files.refuse(f"{source.name} cannot be built: {reason_of(error)}") from error
    reason = accepts(network, entry.transform.size, entry.transform.channels)
    if reason is not None:
        raise MethodError("network-does-not-run", _sentence(entry, network, reason))
    return network


def _sentence(entry: Entry, network: nn.Module, reason: str) -> str:
    """What went wrong, where, and what can be done about it."""
    (height, width), planes = entry.transform.size, entry.transform.channels
    where = where_it_fails(network, blank_input(network, entry.transform.size, planes))
    return (
        f"{entry.id} does not run on one input of {planes}×{height}×{width} numbers{where}: {reason}. What the entry's "
        "preprocess says of size and channels must be what the network was written for"
    )


@functools.lru_cache(maxsize=4)
def _kept_skeleton(entry: Entry) -> nn.Module:
    return skeleton(entry)


def parameter_count(entry: Entry) -> int:
    """Number of parameters, without loading them."""
    with _lock:
        return sum(parameter.numel() for parameter in _kept_skeleton(entry).parameters())


def needs_values(entry: Entry) -> bool:
    """Whether the network runs on numbers only, not on the meta device."""
    with _lock:
        return not any(tensor.is_meta for tensor in _kept_skeleton(entry).parameters())


@functools.lru_cache(maxsize=32)
def table_of(entry: Entry, input_size: tuple[int, int] | None = None) -> Table:
    """The entry's layer table, at its own input size unless told otherwise."""
    how = entry.transform
    source = entry.source_or_raise()
    with _lock:
        naming = functools.partial(aliases_for, source)
        return describe(_kept_skeleton(entry), input_size or how.size, how.channels, naming)


@functools.lru_cache(maxsize=32)
def outputs_of(entry: Entry) -> Outputs:
    """What the entry's network answers, at its own input size."""
    how, source = entry.transform, entry.source_or_raise()
    with _lock:
        network = _kept_skeleton(entry)
        on_meta = any(tensor.is_meta for tensor in network.parameters())

        def inputs(images: int) -> Tensor:
            return blank_input(network, how.size, how.channels).expand(images, -1, -1, -1).clone()

        def trained() -> nn.Module:
            with torch.random.fork_rng(devices=[]):  # loading a network draws nothing from its caller's generator
                return source.build().eval()

        return find_outputs(network, inputs, entry.output, entry.outputs, trained if on_meta else None)


@functools.lru_cache(maxsize=256)
def size_refusal(entry: Entry, input_size: tuple[int, int]) -> str | None:
    """None where the entry's architecture accepts that input size, else why not."""
    with _lock, torch.no_grad():
        return accepts(_kept_skeleton(entry), input_size, entry.transform.channels)

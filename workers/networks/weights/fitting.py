"""A checkpoint's tensors under a network's names: wrappers' prefixes taken off, nothing left over, nothing missing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from workers.contract import MethodError
from workers.networks.weights.files import Checkpoint
from workers.networks.weights.refusal import refuse
from workers.networks.weights.stand_ins import StandIn
from workers.networks.weights.states import STANDARD, is_average, is_quantized

_WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
"""Names under which DataParallel, torch.compile and the like keep the network that they wrap."""
_COUNTERS = ("num_batches_tracked",)
"""Endings of entries that count and weigh nothing; old checkpoints lack them."""
_OF_WRAPPERS = frozenset({"n_averaged"})
"""Entries of wrappers themselves: how many states torch's AveragedModel has averaged."""


@dataclass(frozen=True)
class Fitted:
    """Tensors under the network's names, and how they were found.

    Attributes:
        tensors: copies, in the network's order.
        key: where the state dict stood in the file; "" for the file itself.
        prefix: what was taken off every name.
        others: keys of further state dicts that fit as well.
    """

    tensors: dict[str, Tensor]
    key: str = ""
    prefix: str = ""
    others: tuple[str, ...] = ()

    def said(self) -> str:
        """In a few words, or nothing where nothing was to be decided."""
        parts = [f"read from {self.key!r}"] if self.key else []
        parts += [f"without the prefix {self.prefix!r}"] if self.prefix else []
        parts += [f"there is also {', '.join(self.others)}, for checkpoint_key"] if self.others else []
        return "; ".join(parts)


def fit(
    checkpoint: Checkpoint,
    wanted: Mapping[str, Tensor],
    *,
    auxiliary: tuple[str, ...] = (),
    in_order: bool = False,
    key: str | None = None,
) -> Fitted:
    """The tensors of the one state dict in a checkpoint that is the network's.

    Args:
        checkpoint: as read.
        wanted: the network's own state dict; only names, shapes and dtypes are looked at.
        auxiliary: prefixes of entries to leave out.
        in_order: pair by position, where names differ but order does not.
        key: where in the checkpoint; None looks for the state dict that fits, weights before averages of weights.

    Raises:
        MethodError: `weights-unavailable`, naming the first entry that is missing and the first that is too much.
    """
    keys = _keys(checkpoint, key)
    refusals: list[MethodError] = []
    fitting: dict[str, tuple[str, Mapping[str, Any]]] = {}
    for one in keys:
        try:
            prefix, named = _named(checkpoint.states[one], wanted, checkpoint.same, auxiliary, in_order=in_order)
            _check(named, wanted)
            fitting[one] = prefix, named
        except MethodError as error:
            refusals.append(error)
    if not fitting:
        raise refusals[0]
    chosen = next(iter(fitting))
    rivals = [one for one in fitting if _rank(one) == _rank(chosen) and one != chosen]
    if rivals:
        both = ", ".join(repr(one) for one in (chosen, *rivals))
        raise refuse(f"{checkpoint.name} holds several state dicts that fit: {both}", "Choose one with checkpoint_key")
    prefix, chosen_state = fitting[chosen]
    others = tuple(one for one in fitting if one != chosen)
    return Fitted(_copies(chosen_state, wanted), chosen, prefix, others)


def match(state: Mapping[str, Any], wanted: Mapping[str, Tensor], **how: Any) -> dict[str, Tensor]:
    """The tensors of one state dict under the network's names; arguments and errors as of `fit`."""
    return fit(Checkpoint("the checkpoint", {"": state}), wanted, **how).tensors


def _keys(checkpoint: Checkpoint, key: str | None) -> list[str]:
    """Where to look, the likeliest place first."""
    if key is None:
        size = {name: len(state) for name, state in checkpoint.states.items()}
        return sorted(checkpoint.states, key=lambda name: (_rank(name), -size[name]))
    if key in checkpoint.states:
        return [key]
    below = [name for name in checkpoint.states if name.startswith(f"{key}.") or name.endswith(f".{key}")]
    if not below:
        there = ", ".join(repr(name) for name in checkpoint.states if name) or "none"
        raise refuse(f"{checkpoint.name} has no state dict {key!r}; there is {there}")
    return below


def _rank(key: str) -> int:
    """Weights under a standard key before others, averages last."""
    if is_average(key):
        return len(STANDARD) + 1
    first = key.partition(".")[0]
    return STANDARD.index(first) if first in STANDARD else len(STANDARD)


def _named(
    found: Mapping[str, Any],
    wanted: Mapping[str, Tensor],
    same: Mapping[str, str],
    auxiliary: tuple[str, ...],
    *,
    in_order: bool,
) -> tuple[str, dict[str, Any]]:
    """The prefix that was taken off, and the entries under the network's names.

    Raises:
        MethodError: no way of naming fits.
    """
    state = dict(found) | {name: found[kept] for name, kept in same.items() if kept in found}
    if in_order:
        kept = _without(state, auxiliary)
        if len(kept) != len(wanted):
            raise refuse(f"the checkpoint has {len(kept)} entries, the network {len(wanted)}")
        return "", dict(zip(wanted, kept.values(), strict=True))
    misfits: list[tuple[int, MethodError]] = []
    tied = _tied(wanted)
    for prefix, names in _namings(state, wanted):
        kept = _without({names[name]: value for name, value in state.items() if name in names}, auxiliary)
        for group in tied:
            there = next((name for name in group if name in kept), None)
            if there is not None:
                kept |= {name: kept[there] for name in group if name not in kept}
        if (misfit := _misfit(kept, wanted)) is None:
            return prefix, kept
        # The naming under which most of the network is there explains best what is wrong.
        misfits.append((sum(name in kept for name in wanted), misfit))
    raise max(misfits, key=lambda pair: pair[0])[1]


def _namings(state: Mapping[str, Any], wanted: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, str]]]:
    """Ways to name the entries, each as the prefix taken off and name in the file → name in the network.

    As they are; without one after another of the prefixes that all have in common; without the wrappers that the
    network does not have, wherever they stand.
    """
    yield "", {name: name for name in state}
    names = {name: name for name in state if name not in _OF_WRAPPERS}
    prefix = ""
    while first := _common(names.values()):
        prefix += first
        names = {name: short.removeprefix(first) for name, short in names.items()}
        yield prefix, dict(names)
    of_network = _bare(wanted)
    of_file = _bare(name for name in state if name not in _OF_WRAPPERS)
    if of_network is not None and of_file is not None:
        yield "", {name: of_network.get(bare, bare) for bare, name in of_file.items()}


def _common(names: Any) -> str:
    """The first part of a dotted name where all have the same and something after it, with its dot; or nothing."""
    names = list(names)
    first = names[0].partition(".")[0] + "." if names else ""
    return first if first != "." and all(name.startswith(first) and len(name) > len(first) for name in names) else ""


def _bare(names: Any) -> dict[str, str] | None:
    """Name without wrappers → name; None where two would be one."""
    names = list(names)
    found = {".".join(part for part in name.split(".") if part not in _WRAPPERS): name for name in names}
    return found if len(found) == len(names) else None


def _without(entries: Mapping[str, Any], auxiliary: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name, value in entries.items() if not name.startswith(auxiliary or ("\0",))}


def _tied(wanted: Mapping[str, Tensor]) -> list[list[str]]:
    """Names of the network that are one tensor."""
    groups: dict[int, list[str]] = {}
    for name, tensor in wanted.items():
        groups.setdefault(id(tensor), []).append(name)
    return [group for group in groups.values() if len(group) > 1]


def _misfit(entries: Mapping[str, Any], wanted: Mapping[str, Tensor]) -> MethodError | None:
    """Why entries are not the network's by their names, or None."""
    missing = [name for name in wanted if name not in entries and not name.endswith(_COUNTERS)]
    surplus = [name for name, value in entries.items() if name not in wanted and isinstance(value, Tensor | StandIn)]
    if not missing and not surplus:
        return None
    said = [f"lacks {missing[0]}"] if missing else []
    said += [f"has {surplus[0]}, which the network has not"] if surplus else []
    count = f"({len(missing)} missing, {len(surplus)} surplus)"
    quantized = any(is_quantized(value) for value in entries.values()) or any(
        "_packed_params" in name for name in entries
    )
    why = "its weights are quantized: save them before they are; it " if quantized else ""
    return refuse(f"the checkpoint {why}{' and '.join(said)} {count}", _advice(missing, surplus))


def _advice(missing: list[str], surplus: list[str]) -> str:
    """What to write where a head was replaced: the first entries of both are of one place then."""
    if not missing or not surplus:
        return ""
    place = missing[0].rpartition(".")[0]
    if place and all(name.startswith(f"{place}.") for name in (*missing, *surplus)):
        return f"The network's {place} was replaced for the training: say by what with head, as docs/networks.md shows"
    return ""


def _check(entries: Mapping[str, Any], wanted: Mapping[str, Tensor]) -> None:
    """Refuse entries of another shape, or of other numbers, than the network's.

    Raises:
        MethodError: `weights-unavailable`, naming the first.
    """
    for name, own in wanted.items():
        tensor = entries.get(name)
        if tensor is None:  # a counter
            continue
        if not isinstance(tensor, Tensor):
            raise refuse(_no_tensor(name, tensor))
        if tensor.shape != own.shape:
            raise refuse(f"{name} has shape {tuple(tensor.shape)}, the network's is {tuple(own.shape)}")
        if (
            tensor.is_floating_point() != own.dtype.is_floating_point
            or tensor.is_complex()
            or tensor.layout != torch.strided
        ):
            raise refuse(f"{name} has dtype {tensor.dtype}, the network's is {own.dtype}")


def _copies(entries: Mapping[str, Any], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies with the network's dtypes, in its order: what is mapped from the file would change with it."""
    return {
        name: torch.zeros(own.shape, dtype=own.dtype)
        if entries.get(name) is None
        else entries[name].detach().to(own.dtype, copy=True).contiguous()
        for name, own in wanted.items()
    }


def _no_tensor(name: str, value: Any) -> str:
    if is_quantized(value):
        return f"{name} is quantized; Convscope explains weights of floating point: save them before they are quantized"
    kind = value.qualified if isinstance(value, StandIn) else type(value).__name__
    return f"{name} is no tensor but {kind[:100]}, which is never loaded"

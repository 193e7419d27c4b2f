"""State dicts in what a training program saved: under any key, beside anything."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from workers.networks.weights.stand_ins import StandIn, module_entries

_DEPTH = 4
_MOST_STATES = 64

STANDARD = (
    "",
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "network",
    "model_state",
    "weights",
    "module",
    "params",
)
"""Keys under which training programs keep the weights themselves, the most telling first."""

_AVERAGED = re.compile(r"(^|[._-])(ema|swa|averag\w*|shadow)([._-]|$)", re.IGNORECASE)


def is_average(key: str) -> bool:
    """Whether a key names an average of weights over the training, not the weights that were trained last."""
    return _AVERAGED.search(key) is not None


def find_states(found: Any) -> dict[str, Mapping[str, Any]]:
    """Every state dict in what a file holds, by its keys joined by dots.

    Args:
        found: as the reader of stand-ins gives it.

    Raises:
        ValueError: there is none.
    """
    states: dict[str, Mapping[str, Any]] = {}
    _collect(found, "", 0, states)
    if not states:
        raise ValueError(f"it holds no state dict, {_what(found)}")
    return states


def _collect(found: Any, key: str, depth: int, states: dict[str, Mapping[str, Any]]) -> None:
    entries = _entries(found)
    if entries is None or depth > _DEPTH or len(states) >= _MOST_STATES:
        return
    inner = {name: value for name, value in entries.items() if _entries(value)}
    before = len(states)
    for name, value in inner.items():
        _collect(value, f"{key}.{name}" if key else name, depth + 1, states)
    own = {name: value for name, value in entries.items() if name not in inner}
    if len(states) == before and any(isinstance(value, Tensor) or is_quantized(value) for value in own.values()):
        states[key] = own


def _entries(found: Any) -> dict[str, Any] | None:
    """The entries of a mapping by text, of a whole network those of its state dict; None of anything else."""
    if isinstance(found, StandIn):
        found = found.items or dict(module_entries(found))
    if not isinstance(found, Mapping) or not all(isinstance(name, str) for name in found):
        return None
    return dict(found)


def is_quantized(value: Any) -> bool:
    """Whether an entry is a tensor of integers with a scale, in torch's own form or torchao's."""
    return isinstance(value, StandIn) and (
        value.qualified == "torch._utils._rebuild_qtensor" or value.qualified.startswith("torchao.")
    )


def _what(found: Any) -> str:
    """What a file holds instead, in a few words."""
    if isinstance(found, StandIn):
        return f"but an object of {found.qualified[:100]}"
    if isinstance(found, Mapping):
        return "but a mapping of " + (", ".join(repr(str(key)[:40]) for key in list(found)[:5]) or "nothing")
    return f"but a {type(found).__name__}"

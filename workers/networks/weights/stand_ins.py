"""A reader for `torch.load` that makes tensors and plain containers, and inert stand-ins of everything else.

Training programs put arguments, numpy scalars, enumerations and whole objects beside the weights. torch's weights-only
reader refuses such a file; the ordinary one imports and calls what the file names. This one does neither: whatever
class or function a file names, but for the few listed here, becomes a class of its own that keeps what it was given and
does nothing.

`torch.load(pickle_module=…)` takes this module for what torch calls a pickle module: `Unpickler`, `load`, `loads`.
"""

from __future__ import annotations

import collections
import io
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

_MOST_NAMES = 10_000
"""Classes and functions that one file may name; a class made for each takes about a kilobyte."""


class StandIn:
    """In place of an object of a class that is not imported: what the file says of it, and no behaviour.

    Attributes:
        qualified: module and name of the class or function that the file names.
        arguments: what it would have been called with.
        state: what would have been its attributes.
        items: what would have been put into it by key.
    """

    qualified = ""
    arguments: tuple[Any, ...]
    state: Any
    items: dict[Any, Any]

    def __new__(cls, *arguments: Any, **_named: Any) -> StandIn:
        """An instance that keeps its arguments."""
        made = super().__new__(cls)
        made.arguments, made.state, made.items = arguments, None, {}
        return made

    def __init__(self, *_arguments: Any, **_named: Any) -> None:
        """Nothing: `__new__` has kept them, also where a file makes an object without calling this."""

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, name: Any, value: Any) -> None:
        self.items[name] = value

    def __call__(self, *arguments: Any) -> StandIn:
        """Another stand-in: a file may call what a call gave it."""
        return stand_in_class(f"{self.qualified}(…)")(*arguments)

    def append(self, value: Any) -> None:
        """Keep one value, as a list would."""
        self.items[len(self.items)] = value

    def extend(self, values: Any) -> None:
        """Keep values, as a list would."""
        for value in values:
            self.append(value)


def stand_in_class(qualified: str) -> type[StandIn]:
    """A class of stand-ins for what has that qualified name."""
    return type(qualified.rpartition(".")[2] or "StandIn", (StandIn,), {"qualified": qualified})


def _tensor(storage: Any, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_rest: Any) -> Tensor:
    """A view of a storage; gradients and hooks of training are left out."""
    found: Tensor = torch._utils._rebuild_tensor(storage, offset, size, stride)  # type: ignore[no-untyped-call]
    return found


def _tensor_of_dtype(storage: Any, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *rest: Any) -> Tensor:
    """A view of an untyped storage (`_rebuild_tensor_v3`)."""
    _, _, dtype = rest[:3]
    return torch.empty((0,), dtype=dtype).set_(storage._untyped_storage, offset, size, stride)


def _first(value: Any, *_rest: Any) -> Any:
    """A parameter is its tensor."""
    return value


def _of_type(make: Any, kind: Any, arguments: Any, state: Any) -> Any:
    """A tensor with attributes, or of a class of its own: the plain tensor where it is one."""
    if make in (_tensor, _tensor_of_dtype, _first) and not (isinstance(kind, type) and issubclass(kind, StandIn)):
        return make(*arguments)
    return stand_in_class(getattr(kind, "qualified", "a tensor of a class of its own"))(arguments, state)


def _latin1(text: Any, encoding: Any = "latin1") -> bytes:
    """Bytes, which an old pickle protocol writes as text."""
    if isinstance(text, str) and encoding == "latin1":
        return text.encode("latin1")
    raise pickle.UnpicklingError("text in another encoding than latin1")


def _plain_dict(*_: Any) -> dict[Any, Any]:
    """What a defaultdict or a Counter is to us."""
    return {}


_KNOWN: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("collections", "defaultdict"): _plain_dict,
    ("collections", "Counter"): _plain_dict,
    ("_codecs", "encode"): _latin1,
    ("torch", "Size"): tuple,
    ("torch", "Tensor"): Tensor,  # as the class that a tensor with attributes names; nothing calls it
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_tensor_v3"): _tensor_of_dtype,
    ("torch._utils", "_rebuild_parameter"): _first,
    ("torch._utils", "_rebuild_parameter_with_state"): _first,
    ("torch._tensor", "_rebuild_from_type_v2"): _of_type,
    **{
        (module, kind.__name__): kind
        for module in ("builtins", "__builtin__")
        for kind in (dict, list, tuple, set, frozenset, complex)
    },
}


class Unpickler(pickle.Unpickler):
    """Reads a pickle; nothing that it names is imported or called."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._classes: dict[tuple[str, str], type[StandIn]] = {}

    def find_class(self, module: str, name: str) -> Any:
        """The listed function or container of that name, a dtype of torch, or a class of stand-ins."""
        known = _KNOWN.get((module, name))
        if known is Tensor:
            return _TensorName
        if known is not None:
            return known
        if module == "torch" and isinstance(found := getattr(torch, name, None), torch.dtype):
            return found
        if (module, name) not in self._classes:
            if len(self._classes) >= _MOST_NAMES:
                raise pickle.UnpicklingError(f"it names more than {_MOST_NAMES:,} classes and functions")
            self._classes[module, name] = stand_in_class(f"{module}.{name}")
        return self._classes[module, name]


class _TensorName:
    """What `torch.Tensor` is to a file: a name, and nothing to call."""

    def __new__(cls, *_: Any) -> _TensorName:
        raise pickle.UnpicklingError("a tensor that is not made from a storage")


def load(file: Any, **named: Any) -> Any:
    """What the next pickle of a file holds."""
    return Unpickler(file, **named).load()


def loads(data: bytes, **named: Any) -> Any:
    """What a pickle holds."""
    return Unpickler(io.BytesIO(data), **named).load()


def module_entries(found: StandIn, depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Parameters and persistent buffers of a whole network that was pickled, by the names of its state dict."""
    state = found.state
    if not isinstance(state, dict) or depth > 64:
        return
    hidden = state.get("_non_persistent_buffers_set") or ()
    for kind in ("_parameters", "_buffers"):
        entries = state.get(kind)
        for name, value in entries.items() if isinstance(entries, dict) else ():
            if value is not None and not (kind == "_buffers" and name in hidden):
                yield str(name), value
    modules = state.get("_modules")
    for name, module in modules.items() if isinstance(modules, dict) else ():
        if isinstance(module, StandIn):
            for inner, value in module_entries(module, depth + 1):
                yield f"{name}.{inner}", value

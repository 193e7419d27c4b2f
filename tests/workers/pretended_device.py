"""A device that is none: tensors that say they are elsewhere, and mistakes that only a GPU would notice.

A tensor of this device holds a tensor of the CPU, and every operation runs on those. What CUDA refuses is refused here:
a tensor of the CPU among tensors of the device, a generator of the CPU for numbers of the device, numpy's view of
memory that the CPU cannot see. So the methods are run where nothing may be on the wrong device, without one.

The device's name is torch's `lazy`, which needs no driver, and whose backward runs in the calling thread. Arithmetic
is the CPU's: nothing is learned here about a GPU's kernels, their rounding or their memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

DEVICE = torch.device("lazy", 0)

_aten = torch.ops.aten
_CROSSING = {_aten.copy_.default, _aten._to_copy.default}
"""Operations that move numbers from one device to another."""
_INDEXING = {_aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default, _aten._index_put_impl_.default}
"""Operations that take indices of the CPU for tensors of a device."""
_SCALARS = {_aten.where.self, _aten.fill_.Tensor, _aten.index_put_.default, _aten._index_put_impl_.default}
"""Operations that take a number of the CPU (a 0-d tensor) beside the pointwise ones."""


class DeviceTensor(Tensor):
    """A tensor of the pretended device: its shape, strides and type, and the CPU's tensor that has the numbers."""

    inner: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: Tensor) -> DeviceTensor:
        made: DeviceTensor = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=DEVICE,
        )
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        return _run(func, args, dict(kwargs or {}))

    @property
    def data(self) -> Tensor:  # type: ignore[override]
        """As a tensor's own, with the numbers: `module.to` and casts of weights assign it."""
        return self.detach()

    @data.setter
    def data(self, other: Tensor) -> None:
        if not isinstance(other, DeviceTensor):
            raise RuntimeError("a tensor of the device cannot take over the data of another device's")
        Tensor.data.__set__(self, other)  # type: ignore[attr-defined]
        self.inner = other.inner

    def tolist(self) -> Any:
        """Numbers, as a device's tensor gives them; torch refuses it to classes of our own."""
        return self.inner.tolist()

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if id(self) in memo:
            known: Tensor = memo[id(self)]
            return known
        with torch.no_grad():
            copied = self.detach().clone()
        if isinstance(self, torch.nn.Parameter):
            copied = torch.nn.Parameter(copied, self.requires_grad)
        memo[id(self)] = copied
        return copied


class PretendedDevice(TorchDispatchMode):
    """While entered, `lazy` is a device that tensors can be made on and moved to."""

    def __enter__(self) -> PretendedDevice:
        # torch.tensor(…, device=…) would ask for the device below this mode, where there is none.
        self._lifted_before = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)
        super().__enter__()
        return self

    def __exit__(self, *exc: Any) -> None:
        super().__exit__(*exc)
        torch._C._set_only_lift_cpu_tensors(self._lifted_before)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        return _run(func, args, dict(kwargs or {}))


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """One operation, on the CPU's tensors that those of the device hold."""
    given = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, Tensor)]
    here = any(isinstance(value, DeviceTensor) for value in given)
    wanted = kwargs.get("device")
    on_device = here if wanted is None else torch.device(wanted).type == DEVICE.type
    if here:
        _refuse_mixtures(func, args, given)
    if on_device and wanted is not None:
        kwargs["device"] = torch.device("cpu")
    if not (here or on_device):
        return func(*args, **kwargs)
    generator = kwargs.get("generator")
    if generator is not None and on_device:
        raise RuntimeError(f"Expected a '{DEVICE.type}' device type for generator but found '{generator.device.type}'")
    owners = {id(value.inner if isinstance(value, DeviceTensor) else value): value for value in given}
    found = func(*tree_map(_inner, args), **tree_map(_inner, kwargs))
    if torch.Tag.inplace_view in func.tags:
        _reshape_outside(func, args, kwargs)

    def outer(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        known = owners.get(id(value))  # an operation in place gives back what it was given
        if known is not None or not on_device:
            return value if known is None else known
        return DeviceTensor(value.resolve_conj().resolve_neg())  # the outside could not say that it is a conjugate

    return tree_map(outer, found)


def _inner(value: Any) -> Any:
    return value.inner if isinstance(value, DeviceTensor) else value


def _refuse_mixtures(func: Any, args: Any, given: list[Tensor]) -> None:
    """Raise where CUDA does: a tensor of the CPU among the device's, but a number beside pointwise arithmetic."""
    if func in _CROSSING:
        return
    allowed = {id(index) for index in _indices(func, args)}
    numbers = func in _SCALARS or torch.Tag.pointwise in func.tags
    for value in given:
        if isinstance(value, DeviceTensor) or id(value) in allowed or (value.dim() == 0 and numbers):
            continue
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found at least two devices, {DEVICE} and "
            f"{value.device}, in {func} (a tensor of shape {tuple(value.shape)})"
        )


def _indices(func: Any, args: Any) -> Iterator[Tensor]:
    """Indices that may be on the CPU: those of a tensor of the device."""
    if func in _INDEXING and isinstance(args[0], DeviceTensor):
        yield from (index for index in args[1] if isinstance(index, Tensor))


def _reshape_outside(func: Any, args: Any, kwargs: dict[str, Any]) -> None:
    """Have `squeeze_` and its like change the outside's shape as well, by what torch does for tensors without data."""
    before = torch._C._meta_in_tls_dispatch_include()
    torch._C._set_meta_in_tls_dispatch_include(True)
    try:
        with no_dispatch():
            func(*args, **kwargs)
    finally:
        torch._C._set_meta_in_tls_dispatch_include(before)

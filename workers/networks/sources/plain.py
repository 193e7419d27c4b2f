"""Graphs of torch.fx as ordinary modules: their classes may be derived from, and their instances copied."""

from __future__ import annotations

from typing import Any

from torch import fx, nn


def as_plain(network: nn.Module) -> nn.Module:
    """The network with every graph module in it as a module of a class of its own, which has the graph's forward.

    A graph module makes its class anew when it is copied, which drops a forward that was put over it, and calls itself
    without end where its class was derived from. What `fast` and lean arithmetic do to networks is just that.

    Args:
        network: not touched; parameters and buffers are shared.
    """
    return _plain(network, {})


def _plain(module: nn.Module, known: dict[int, nn.Module]) -> nn.Module:
    if id(module) in known:
        return known[id(module)]
    if not isinstance(module, fx.GraphModule):
        known[id(module)] = module
        for name, child in module.named_children():
            module._modules[name] = _plain(child, known)
        return module
    kind = type(module)
    own = type(kind.__name__, (nn.Module,), {"forward": kind.forward, "__module__": kind.__module__})
    made: Any = own()
    known[id(module)] = made
    made._parameters, made._buffers = dict(module._parameters), dict(module._buffers)
    made._non_persistent_buffers_set = set(module._non_persistent_buffers_set)
    made._modules = {name: _plain(child, known) for name, child in module._modules.items() if child is not None}
    for name, value in vars(module).items():
        if not name.startswith("_") and name not in ("meta", "training"):
            setattr(made, name, value)
    made.training = module.training
    return made  # type: ignore[no-any-return]

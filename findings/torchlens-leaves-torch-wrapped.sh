#!/usr/bin/env bash
# torchlens 2.36.1 leaves torch's functions replaced once trace() has returned: code of the same process that compares functions by identity, as torch function modes do, knows none of them any more.
#
# A mode that counts rectifications by `function is F.relu`, kept from before, counts one before the trace and none after
# it, with the same network. `torchlens.backends.torch.wrappers.unwrap_torch()` puts everything back.
. "$(dirname "$0")/packages" torch==2.15.0 torchlens==2.36.1 numpy==2.4.6
"$python" - <<'END'
from importlib.metadata import version

import torch
import torchlens
from torch import nn
from torch.overrides import TorchFunctionMode
from torchlens.backends.torch.wrappers import unwrap_torch

ADDITIONS = {torch.Tensor.__add__, torch.Tensor.add, torch.add}


class Additions(TorchFunctionMode):
    """Counts sums by the identity of the function."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def __torch_function__(self, function, types, arguments=(), named=None):
        self.seen += function in ADDITIONS
        return function(*arguments, **(named or {}))


class Shortcut(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.relu() + x


def counted() -> int:
    with torch.no_grad(), Additions() as additions:
        Shortcut()(torch.ones(1, 2))
    return additions.seen


before = counted()
torchlens.trace(Shortcut(), torch.ones(1, 2))
after = counted()
unwrap_torch()
restored = counted()
print(f"torchlens {version('torchlens')}, torch {torch.__version__}: sums seen by a mode in x.relu() + x")
print(f"before a trace {before}, after it {after}, after unwrap_torch() {restored}")
assert (before, after, restored) == (1, 0, 1)
END

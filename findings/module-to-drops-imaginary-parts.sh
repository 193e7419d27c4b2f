#!/usr/bin/env bash
# torch 2.15.0's Module.to(torch.float32) turns complex parameters into real ones, while Module.float() leaves them as they are: a spectral layer that is "moved to float32" computes with half of its weights.
#
# .to(dtype) casts whatever is a floating or a complex number, .float() floating numbers alone. A warning is all that
# tells it, once a process as a rule.
. "$(dirname "$0")/packages" torch==2.15.0 numpy==2.4.6
"$python" - <<'END'
import warnings

import torch
from torch import nn

warnings.simplefilter("ignore")


class Spectral(nn.Module):
    def __init__(self):
        super().__init__()
        self.filter = nn.Parameter(torch.tensor([1 + 2j, 3 - 1j]))


kept, lost = Spectral().float(), Spectral().to(torch.float32)
print(f"torch {torch.__version__}")
print(f".float(): {kept.filter.dtype} {kept.filter.tolist()}; .to(torch.float32): {lost.filter.dtype} {lost.filter.tolist()}")
assert kept.filter.is_complex() and not lost.filter.is_complex()
assert lost.filter.tolist() == [1.0, 3.0]
END

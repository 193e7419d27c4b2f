#!/usr/bin/env bash
# zennit 0.5.1's Occlusion by default hides everything but the window: its maps say what the window alone is enough for, not what its absence costs.
#
# Zeiler & Fergus 2013 hide the window and keep the rest, as Captum does. In zennit that takes an occlusion function of
# one's own that is given the complement of the mask.
. "$(dirname "$0")/packages" torch==2.15.0 torchvision==0.29.2 zennit==0.5.1 click==8.5.1 numpy==2.4.6 pillow==13.0.0
"$python" - <<'END'
import torch
from importlib.metadata import version
from torch import Tensor, nn
from zennit.attribution import Occlusion


class Sum(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        left.append(int((x != 0).sum()))
        return x.sum((1, 2, 3))[:, None]


left: list[int] = []
with Occlusion(Sum()) as attributor:
    attributor(torch.ones(1, 1, 16, 16), torch.ones(1, 1))
print(f"zennit {version('zennit')}, torch {torch.__version__}; an image of 256 ones, windows of 8x8 by default")
print(f"pixels that are left at each forward: {left}")
assert left.count(64) == 4 and 192 not in left
END

#!/usr/bin/env bash
# Captum 0.9.0 clamps the gradient of everything that reads a rectification's input, not of the rectification alone, so guided backpropagation past a pre-activation skip loses the other path.
#
# With f(x) = relu(y) - 3y and y = x = 1 the rectification's gradient (+1) passes the guided rule as it is, and the other
# path adds -3: -2 in all. Captum hooks the tensor y, sees the sum of both, and clamps that to 0. Deconvolution gives 1.
. "$(dirname "$0")/packages" torch==2.15.0 captum==0.9.0 numpy==2.4.6
"$python" - <<'END'
import captum, torch
from captum.attr import Deconvolution, GuidedBackprop
from torch import Tensor, nn


class Skip(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = x * 1.0
        return self.relu(y) - 3 * y


x = torch.tensor([[1.0]], requires_grad=True)
gradient = torch.autograd.grad(Skip()(x).sum(), x)[0].item()
guided = GuidedBackprop(Skip()).attribute(x).item()
deconvolution = Deconvolution(Skip()).attribute(x).item()
print(f"captum {captum.__version__}, torch {torch.__version__}")
print(f"gradient {gradient}, guided {guided} (by its definition -2), deconvolution {deconvolution} (by its definition -2)")
assert (gradient, guided, deconvolution) == (-2.0, 0.0, 1.0)
END

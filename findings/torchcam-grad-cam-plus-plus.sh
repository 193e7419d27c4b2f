#!/usr/bin/env bash
# TorchCAM 0.5.0's Grad-CAM++ leaves out the denominator of alpha: it divides a copy, so that alpha is the squared gradient.
#
# Chattopadhay et al. 2018, equation 19: alpha = g^2 / (2 g^2 + sum(A) g^3). In `alpha[idx][mask].div_(...)` the boolean
# index makes a new tensor, which is divided and thrown away.
. "$(dirname "$0")/packages" torch==2.15.0 torchvision==0.29.2 torchcam==0.5.0 numpy==2.4.6 pillow==13.0.0
"$python" - <<'END'
import torch
from importlib.metadata import version
from torch import Tensor, nn
from torchcam.methods import GradCAMpp


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.convolution(x).relu().mean((2, 3)))


torch.manual_seed(0)
network, image = Network().eval(), torch.randn(1, 3, 10, 10)
with GradCAMpp(network, "convolution") as cam:
    found = cam._get_weights(1, network(image))[0].detach().double()

a = network.convolution(image).detach().requires_grad_()
g = torch.autograd.grad(network.head(a.relu().mean((2, 3)))[0, 1], a)[0].double()
total = a.detach().double().sum((2, 3), keepdim=True)
square, cube = g**2, g**3
published = torch.where(g != 0, square / (2 * square + total * cube), 0.0)
by_paper, by_square = ((alpha * g.relu()).sum((2, 3)) for alpha in (published, square))
print(f"torchcam {version('torchcam')}, torch {torch.__version__}")
print("weights of four channels:", *(f"{value:.3g}" for value in found[0]))
print("alpha = g^2:             ", *(f"{value:.3g}" for value in by_square[0]))
print("alpha as published:      ", *(f"{value:.3g}" for value in by_paper[0]))
torch.testing.assert_close(found, by_square, rtol=1e-4, atol=1e-12)
assert (by_paper.abs().max() / found.abs().max()) > 100
END

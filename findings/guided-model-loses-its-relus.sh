#!/usr/bin/env bash
# After one call of pytorch-grad-cam 1.5.7's GuidedBackpropReLUModel a ResNet-50 has one ReLU module in 17 places, so hooks on one of them fire for all.
#
# It puts one module of its own in the place of every nn.ReLU while it computes, and one new nn.ReLU in the place of all
# of them afterwards. named_modules() names a shared module once.
. "$(dirname "$0")/packages" grad-cam==1.5.7 torch==2.15.0 torchvision==0.29.2 opencv-python-headless==5.0.0.93 scikit-learn==1.9.1 numpy==2.4.6 pillow==13.0.0 tqdm==4.70.1 ttach==0.0.3 matplotlib==3.11.2
"$python" - <<'END'
import torch, torchvision
from importlib.metadata import version
from pytorch_grad_cam import GuidedBackpropReLUModel
from torch import nn


def relus(network: nn.Module) -> list[str]:
    return [name for name, module in network.named_modules() if isinstance(module, nn.ReLU)]


def calls_of_first(network: nn.Module) -> int:
    calls = []
    handle = network.relu.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        network(image)
    handle.remove()
    return len(calls)


torch.manual_seed(0)
network, image = torchvision.models.resnet50(weights=None).eval(), torch.rand(1, 3, 64, 64)
before = len(relus(network)), calls_of_first(network)
GuidedBackpropReLUModel(network, device="cpu")(image, target_category=1)
after = len(relus(network)), calls_of_first(network)
print(f"pytorch-grad-cam {version('grad-cam')}, torchvision {torchvision.__version__}")
print(f"ReLU modules and calls of the first one: before {before}, after {after}")
assert before == (17, 1) and after == (1, 49)
END

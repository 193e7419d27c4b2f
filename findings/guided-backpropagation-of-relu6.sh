#!/usr/bin/env bash
# Guided backpropagation of a network whose rectifications are ReLU6 is the plain gradient, bit for bit, in Captum 0.9.0 and in zennit 0.5.1.
#
# Both look for modules of the class nn.ReLU. MobileNetV2 and EfficientNet-Lite have nn.ReLU6, which is no subclass of it,
# so the rule acts nowhere. Neither library refuses, and Captum says "Setting backward hooks on ReLU activations" all the
# same.
. "$(dirname "$0")/packages" torch==2.15.0 torchvision==0.29.2 captum==0.9.0 zennit==0.5.1 click==8.5.1 numpy==2.4.6 pillow==13.0.0
"$python" - <<'END'
import warnings

import captum, torch, torchvision, zennit
from captum.attr import GuidedBackprop
from torch import nn
from zennit.attribution import Gradient
from zennit.composites import GuidedBackprop as GuidedComposite

torch.manual_seed(0)
image = torch.rand(1, 3, 64, 64, requires_grad=True)
print(f"captum {captum.__version__}, zennit 0.5.1, torch {torch.__version__}")
for name, network in (
    ("mobilenet_v2", torchvision.models.mobilenet_v2(weights=None).eval()),
    ("vgg11", torchvision.models.vgg11(weights=None).eval()),
):
    modules = list(network.modules())
    relu, relu6 = (sum(type(module) is kind for module in modules) for kind in (nn.ReLU, nn.ReLU6))
    gradient = torch.autograd.grad(network(image)[0, 7], image)[0]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        by_captum = GuidedBackprop(network).attribute(image, target=7)
        with Gradient(network, GuidedComposite()) as attributor:
            _, by_zennit = attributor(image, torch.eye(1000)[[7]])
    said = sorted({str(each.message)[:60] for each in caught})
    same = torch.equal(by_captum, gradient), torch.equal(by_zennit, gradient)
    print(f"{name}: {relu} ReLU, {relu6} ReLU6; equal to the gradient: captum {same[0]}, zennit {same[1]}; warnings {said}")
    assert same == ((True, True) if name == "mobilenet_v2" else (False, False))
END

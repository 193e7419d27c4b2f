#!/usr/bin/env bash
# pytorch-grad-cam 1.5.7's FullGrad finds no bias at all in timm's EfficientNet-Lite0, whose 49 normalisations all have one, and returns input times gradient alone.
#
# It asks for modules whose class is exactly nn.Conv2d or nn.BatchNorm2d. timm's BatchNormAct2d and its convolutions with
# padding of TensorFlow's kind are subclasses. Srinivas & Fleuret 2019, equation 5, is a sum over the biases.
. "$(dirname "$0")/packages" grad-cam==1.5.7 torch==2.15.0 torchvision==0.29.2 timm==1.0.31 opencv-python-headless==5.0.0.93 scikit-learn==1.9.1 numpy==2.4.6 pillow==13.0.0 tqdm==4.70.1 ttach==0.0.3 matplotlib==3.11.2
"$python" - <<'END'
import timm, torch, torchvision
from importlib.metadata import version
from pytorch_grad_cam import FullGrad
from torch import nn

print(f"pytorch-grad-cam {version('grad-cam')}, timm {timm.__version__}, torch {torch.__version__}")
found = {}
for name, network in (
    ("timm tf_efficientnet_lite0", timm.create_model("tf_efficientnet_lite0").eval()),
    ("torchvision resnet18", torchvision.models.resnet18(weights=None).eval()),
):
    normalisations = sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    with FullGrad(network, []) as cam:
        found[name] = len(cam.bias_data)
    print(f"{name}: {normalisations} batch normalisations, {found[name]} biases in the decomposition")
assert found == {"timm tf_efficientnet_lite0": 0, "torchvision resnet18": 20}
END

#!/usr/bin/env bash
# torchvision 0.29.2's create_feature_extractor returns, for ResNet's `bn1`, the output of the ReLU after it: both names are the same memory.
#
# The ReLU works in place, and the extractor does not copy what it returns. A minimum of 0 where a batch normalisation
# should have negative values is how one notices. timm's and hand-made hooks have the same trap.
. "$(dirname "$0")/packages" torch==2.15.0 torchvision==0.29.2 numpy==2.4.6 pillow==13.0.0
"$python" - <<'END'
import torch, torchvision
from torchvision.models.feature_extraction import create_feature_extractor

torch.manual_seed(0)
network, image = torchvision.models.resnet18(weights=None).eval(), torch.randn(1, 3, 64, 64)
both = create_feature_extractor(network, ["bn1", "relu"])(image)
with torch.no_grad():
    truth = network.bn1(network.conv1(image)).min().item()
alone = create_feature_extractor(network, ["bn1"])(image)["bn1"].min().item()
same = both["bn1"].data_ptr() == both["relu"].data_ptr()
print(f"torchvision {torchvision.__version__}, torch {torch.__version__}")
print(f"smallest value of bn1: {truth:.2f}; asked for alone {alone:.2f}; with relu {both['bn1'].min().item():.2f}, same memory: {same}")
assert same and both["bn1"].min() == 0 and truth < -1 and abs(alone - truth) < 1e-4
END

#!/usr/bin/env bash
# pytorch-grad-cam 1.5.7 adds 1e-6 to the denominator of Grad-CAM++'s alpha, which outweighs gradients below about 1e-3: at 1e-4 a weight is a fiftieth of the published one.
#
# alpha = g^2 / (2 g^2 + sum(A) g^3) does not depend on the size of g where sum(A) is 0: it is 1/2. Gradients of a logit
# at a network's last maps of 7x7 are often that small, and then the relative weights of channels change.
. "$(dirname "$0")/packages" grad-cam==1.5.7 torch==2.15.0 torchvision==0.29.2 opencv-python-headless==5.0.0.93 scikit-learn==1.9.1 numpy==2.4.6 pillow==13.0.0 tqdm==4.70.1 ttach==0.0.3 matplotlib==3.11.2
"$python" - <<'END'
import numpy as np
from importlib.metadata import version
from pytorch_grad_cam import GradCAMPlusPlus

activation = np.array([[[[1.0, -1.0]]]])
print(f"pytorch-grad-cam {version('grad-cam')}")
shares = {}
for size in (1.0, 1e-2, 1e-3, 1e-4):
    gradient = np.full((1, 1, 1, 2), size)
    weight = GradCAMPlusPlus.get_cam_weights(None, None, None, None, activation, gradient)[0, 0]
    published = 2 * 0.5 * size  # two positions of alpha 1/2
    shares[size] = weight / published
    print(f"gradient {size:g}: weight {weight:.3g}, published {published:.3g}")
assert abs(shares[1.0] - 1) < 1e-3 and 0.6 < shares[1e-3] < 0.7 and 0.01 < shares[1e-4] < 0.03
END

#!/usr/bin/env bash
# OpenCV 5.0.0's COLORMAP_JET, which show_cam_on_image of pytorch-grad-cam 1.5.7 draws with, is up to 34 of 255 levels from Matplotlib 3.11.2's `jet`, at level 223 most of all.
#
# OpenCV interpolates its map from samples of its own, Matplotlib from breakpoints of the published ramp. Overlays of two
# libraries that both say "jet" differ by more than any rounding, with the same map and the same opacity.
. "$(dirname "$0")/packages" opencv-python-headless==5.0.0.93 matplotlib==3.11.2 numpy==2.4.6
"$python" - <<'END'
import cv2, matplotlib, numpy as np

levels = np.arange(256, dtype=np.uint8)
theirs = cv2.applyColorMap(levels[None], cv2.COLORMAP_JET)[0, :, ::-1].astype(int)
ours = np.rint(matplotlib.colormaps["jet"](levels)[:, :3] * 255).astype(int)
apart = np.abs(theirs - ours).max(axis=1)
print(f"opencv {cv2.__version__}, matplotlib {matplotlib.__version__}")
print(f"largest difference {apart.max()} at level {apart.argmax()}, mean of the largest channel {apart.mean():.1f}")
print(f"level 21: opencv {theirs[21].tolist()}, matplotlib {ours[21].tolist()}")
assert 30 <= apart.max() <= 40 and apart.mean() > 5
END

"""What a careful user of pytorch-grad-cam would serve: FastAPI, one network, one CAM object, a lock around both.

`uvicorn bench.plain_cam_service:app`. The network and its class names are those of Convscope's default, and it answers
with the overlay as PNG, as Convscope is asked to. The hooks hold one image at a time, hence the lock; decoding,
resizing and encoding happen outside of it, in the threads of the pool.
"""

from __future__ import annotations

import io
import threading
from typing import Annotated

import numpy as np
import torch
from fastapi import FastAPI, File, Response
from PIL import Image
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.image import show_cam_on_image
from torchvision.transforms import v2

from workers.networks.build import load

network = load("efficientnet_lite0")
model = network.module.requires_grad_(True)
cam = GradCAM(model=model, target_layers=[model.get_submodule("bn2")])
lock = threading.Lock()
transform = v2.Compose(
    [
        v2.Resize((224, 224), antialias=True),
        v2.ToImage(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(network.mean, network.std),
    ]
)
app = FastAPI()


@app.post("/cam")
def explain(image: Annotated[bytes, File()]) -> Response:
    """The Grad-CAM of the predicted class over the photograph."""
    photograph = Image.open(io.BytesIO(image)).convert("RGB")
    inputs = transform(photograph)[None]
    with lock:
        heat = cam(input_tensor=inputs, targets=None)[0]
    heat = np.asarray(Image.fromarray(heat).resize(photograph.size, Image.Resampling.BILINEAR))
    drawn = show_cam_on_image(np.asarray(photograph, np.float32) / 255, heat, use_rgb=True)
    buffer = io.BytesIO()
    Image.fromarray(drawn).save(buffer, "PNG")
    return Response(buffer.getvalue(), media_type="image/png")

"""What KServe's own client gets of a Convscope: run by an interpreter that has kserve, prints JSON.

Usage: kserve_client.py URL IMAGE
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from pathlib import Path

import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest
from kserve.inference_client import RESTConfig
from kserve.protocol.infer_type import RequestedOutput

MODEL = "efficientnet_lite0"
LAYER = "blocks.0.0"


async def main(url: str, image: bytes) -> dict[str, object]:
    second = InferenceRESTClient(RESTConfig(protocol="v2", timeout=120))
    first = InferenceRESTClient(RESTConfig(protocol="v1", timeout=120))
    said: dict[str, object] = {
        "live": await second.is_server_live(url),
        "ready": await second.is_server_ready(url),
        "model": await second.is_model_ready(url, MODEL),
    }
    for binary in (False, True):
        tensor = InferInput("image", [1], "BYTES")
        element = image if binary else base64.b64encode(image)
        tensor.set_data_from_numpy(np.array([element], dtype=np.object_), binary_data=binary)
        outputs = [RequestedOutput("logits"), RequestedOutput(LAYER)]
        request = InferRequest(MODEL, [tensor], request_outputs=outputs, parameters={"binary_data_output": binary})
        answer = await second.infer(url, request, model_name=MODEL)
        said[f"binary={binary}"] = {
            output.name: [list(output.shape), float(np.asarray(output.as_numpy(), np.float64).sum())]
            for output in answer.outputs
        }
        said["class"] = int(answer.outputs[0].as_numpy().argmax())
    instances = {"instances": [{"image_bytes": {"b64": base64.b64encode(image).decode()}}]}
    explained = await first.explain(url, MODEL, instances)
    said["explained"] = explained["explanations"][0]["facts"]["maps"][0]["target"]
    await first.close()
    await second.close()
    return said


print(json.dumps(asyncio.run(main(sys.argv[1], Path(sys.argv[2]).read_bytes()))))

"""What MLflow does with the installed plugin: run with the client's wheel on the path, prints JSON.

Usage: mlflow_run.py URL IMAGE STORE
"""

from __future__ import annotations

import json
import sys

import mlflow
import mlflow.deployments

url, image, store = sys.argv[1:]
mlflow.set_tracking_uri(f"file://{store}")
client = mlflow.deployments.get_deploy_client(f"convscope:{url}")
with mlflow.start_run() as run:
    predicted = client.predict("efficientnet_lite0", image)
    explained = client.explain("efficientnet_lite0", {"images": image, "methods": ["layercam", "gradcam"]})
alone = client.predict(inputs=image)
try:
    client.predict("no-such-network", image)
except mlflow.exceptions.MlflowException as error:
    refused = str(error)
artifacts = mlflow.MlflowClient()
folders = {
    operation: [one.path for one in artifacts.list_artifacts(run.info.run_id, f"{operation}/{answer['job_id']}")]
    for operation, answer in (("classify", predicted), ("cam", explained))
}
print(
    json.dumps(
        {
            "names": [one["name"] for one in client.list_deployments()],
            "layers": len(client.get_deployment("efficientnet_lite0")["layers"]),
            "predicted": predicted["predictions"],
            "alone": alone["predictions"],
            "methods": [one["method"] for one in explained["maps"]],
            "refused": refused,
            "folders": folders,
            "store": run.info.artifact_uri,
        }
    )
)

"""MLflow's deployment target `convscope`: networks as deployments, and what they see logged into the active run.

    client = mlflow.deployments.get_deploy_client("convscope:http://localhost:8000")
    with mlflow.start_run():
        client.predict("efficientnet_lite0", "cat.jpg")
        client.explain("efficientnet_lite0", "cat.jpg")

MLflow finds this module by its entry point (https://mlflow.org/docs/latest/ml/plugins). Needs the extra `mlflow`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlflow
from mlflow.deployments import BaseDeploymentClient, PredictionsResponse
from mlflow.exceptions import MlflowException

from convscope_client import Client, ProblemError, Result
from convscope_client.images import ImagesInput

SCHEME = "convscope"
PREDICTING, EXPLAINING = "classify", "cam"
"""The operations of `predict` and `explain`, unless the inputs name another."""
MOST_PICTURES = 16
"""So many pictures of one result are logged."""
FLAVOR = "convscope"


class ConvscopeDeploymentClient(BaseDeploymentClient):
    """Networks of a running Convscope as MLflow's deployments.

    Args:
        target_uri: `convscope:http://HOST:PORT`; `convscope` alone takes the address from CONVSCOPE_URL. The key is
            taken from CONVSCOPE_API_KEY.
    """

    def __init__(self, target_uri: str) -> None:
        super().__init__(target_uri)  # type: ignore[no-untyped-call]
        self._client = Client(target_uri.removeprefix(SCHEME).removeprefix(":") or None)

    def predict(
        self, deployment_name: str | None = None, inputs: Any = None, endpoint: str | None = None
    ) -> PredictionsResponse:
        """What a network answers to images: `classify`, or the operation that the inputs name.

        Where a run is active, facts, arrays and pictures are logged into it, under OPERATION/JOB.

        Args:
            deployment_name: the network's id; the default network where it is None.
            inputs: images in any form that the client takes; or a mapping with `images`, `operation` and properties of
                the operation's request.

        Returns:
            The result's facts, `job_id`, and as `predictions` those of `classify`, a list for each image.

        Raises:
            MlflowException: the service refused, or the job failed.
        """
        return self._computed(deployment_name, inputs, PREDICTING)

    def explain(
        self, deployment_name: str | None = None, df: Any = None, endpoint: str | None = None
    ) -> PredictionsResponse:
        """Why a network answers so: `cam`, or the operation that `df` names; see `predict`."""
        return self._computed(deployment_name, df, EXPLAINING)

    def create_deployment(
        self,
        name: str,
        model_uri: str,
        flavor: str | None = None,
        config: Mapping[str, Any] | None = None,
        endpoint: str | None = None,
    ) -> dict[str, Any]:
        """Bring a network, for callers who may: a new one.

        Args:
            name: its id.
            model_uri: of a safetensors file of weights, or of a .pt2, wherever MLflow finds artifacts.
            flavor: not used; the file says what it is.
            config: what is said of the network: `source`, `classes`, `preprocess`, …
        """
        return self._brought(name, model_uri, config, only_new=True)

    def update_deployment(
        self,
        name: str,
        model_uri: str | None = None,
        flavor: str | None = None,
        config: Mapping[str, Any] | None = None,
        endpoint: str | None = None,
    ) -> dict[str, Any]:
        """Bring another version of a network; see `create_deployment`."""
        if model_uri is None:
            raise MlflowException.invalid_parameter_value("another version of a network needs its file: model_uri")
        return self._brought(name, model_uri, config, only_new=False)

    def delete_deployment(
        self, name: str, config: Mapping[str, Any] | None = None, endpoint: str | None = None
    ) -> None:
        """Forget a network that was brought; one that is not there is no error."""
        try:
            self._client.delete_model(name)
        except ProblemError as error:
            if error.name != "not-found":
                raise _told(error) from error

    def list_deployments(self, endpoint: str | None = None) -> list[dict[str, Any]]:
        """The networks that there are."""
        return [{"name": model["id"], **model} for model in self._client.list_models()["models"]]

    def get_deployment(self, name: str, endpoint: str | None = None) -> dict[str, Any]:
        """A network's card."""
        try:
            return {"name": name, "flavor": FLAVOR, **self._client.read_model(name)}
        except ProblemError as error:
            raise _told(error) from error

    def _brought(self, name: str, uri: str, config: Mapping[str, Any] | None, *, only_new: bool) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            file = mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=folder)
            try:
                made = self._client.put_model(name, file, entry=config, only_new=only_new)
            except ProblemError as error:
                raise _told(error) from error
        return {"name": name, "flavor": FLAVOR, **made}

    def _computed(self, deployment: str | None, inputs: Any, usual: str) -> PredictionsResponse:
        images, operation, properties = _asked(inputs, usual)
        if deployment is not None:
            properties["model"] = deployment
        try:
            result: Result[dict[str, Any]] = self._client.submit(operation, images, properties).result()
            if mlflow.active_run() is not None:
                self._log(operation, result)
        except ProblemError as error:
            raise _told(error) from error
        answer = {**result.facts, "job_id": result.job_id}
        answer.setdefault("predictions", result.facts)
        return PredictionsResponse(answer)

    def _log(self, operation: str, result: Result[dict[str, Any]]) -> None:
        """Put a result into the active run: facts.json, arrays.safetensors, pictures."""
        folder = f"{operation}/{result.job_id}"
        said = {"facts": result.facts, "provenance": result.provenance, "job_id": result.job_id}
        mlflow.log_dict(said, f"{folder}/facts.json")
        with tempfile.TemporaryDirectory() as temporary:
            arrays = Path(temporary) / "arrays.safetensors"
            result.save(arrays)
            mlflow.log_artifact(str(arrays), folder)
        for picture in result.pictures[:MOST_PICTURES]:
            name = picture["name"].replace("/", "_")
            mlflow.log_image(result.picture(pick=picture["name"]), f"{folder}/{name}.png")


def run_local(
    target: str, name: str, model_uri: str, flavor: str | None = None, config: Mapping[str, Any] | None = None
) -> None:
    """MLflow asks each plugin for this; `convscope serve` runs everything on this machine."""
    del model_uri, flavor, config
    raise MlflowException(f"{target} cannot start a service; `convscope serve` does, then create_deployment({name!r})")


def target_help() -> str:
    """What MLflow shows about this target."""
    return __doc__ or ""


def _asked(inputs: Any, usual: str) -> tuple[ImagesInput | None, str, dict[str, Any]]:
    """Images, operation and further properties of what was given."""
    if not isinstance(inputs, Mapping) or "id" in inputs:
        return inputs, usual, {}
    properties = dict(inputs)
    return properties.pop("images", None), str(properties.pop("operation", usual)), properties


def _told(error: ProblemError) -> MlflowException:
    return MlflowException(f"{error.name}: {error.detail}")

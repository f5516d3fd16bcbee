"""MLflow's model registry as a workspace offers it: its models are the workspace's own models.

A model registered through MLflow is visible to the clients of Azure ML too, and vice versa.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from mlflow.exceptions import MlflowException
from mlflow.protos import model_registry_pb2 as api
from starlette.responses import Response

from azureml_jobs.rehearsal.blobs import Accounts
from azureml_jobs.rehearsal.mlflow_tracking import Message, respond
from azureml_jobs.rehearsal.mounts import ARTIFACTS
from azureml_jobs.rehearsal.resources import Json, Resources

_SOURCE: Final = re.compile(
    r"azureml://[^/]+/mlflow/v2\.0(/subscriptions/.+)/experiments/[^/]+/runs/([^/]+)/artifacts/(.+)"
)
# MLflow's own error codes.
_RESOURCE_ALREADY_EXISTS: Final = 3001
_RESOURCE_DOES_NOT_EXIST: Final = 5
_INVALID_PARAMETER_VALUE: Final = 1000
_DESCRIPTION: Final = "description"


@dataclass
class ModelRegistry:
    """The models of all workspaces."""

    resources: Resources
    accounts: Accounts

    def answer(self, workspace: str, verb: str, body: Json) -> Response | None:
        """Return the answer to one call, such as `registered-models/create`.

        None where the verb is not offered.
        """
        if verb not in _VERBS:
            return None
        make_request, act = _VERBS[verb]
        return respond(make_request(), body, lambda request: act(self, workspace, request))

    def create_model(self, workspace: str, request: Message) -> Message:
        """`registered-models/create`."""
        id = _id(workspace, request.name)
        with self.resources.lock:
            if self.resources.get(id):
                message = f"The model {request.name} exists."
                raise MlflowException(message, error_code=_RESOURCE_ALREADY_EXISTS)
            properties = {
                _DESCRIPTION: request.description,
                "tags": _tags(request),
                "latestVersion": "0",
            }
            model = self.resources.put(id, {"properties": properties})
        return api.CreateRegisteredModel.Response(registered_model=_model_message(model))

    def get_model(self, workspace: str, request: Message) -> Message:
        """`registered-models/get`."""
        model = self._existing(_id(workspace, request.name))
        return api.GetRegisteredModel.Response(registered_model=_model_message(model))

    def create_version(self, workspace: str, request: Message) -> Message:
        """`model-versions/create`: from a run of this workspace with files of an MLflow model."""
        # Under the lock, so that two requests can't get the same number.
        with self.resources.lock:
            model = self._existing(_id(workspace, request.name))
            number = str(int(model["properties"]["latestVersion"]) + 1)
            properties = {
                _DESCRIPTION: request.description,
                "tags": _tags(request),
                "properties": {"source": request.source},
                "modelType": "mlflow_model",
                "modelUri": self._files(workspace, request.source),
                "jobName": request.run_id,
                "flavors": {},
            }
            id = f"{model['id']}/versions/{number}"
            version = self.resources.put(id, {"properties": properties})
            model["properties"]["latestVersion"] = number
        message = _version_message(request.name, version)
        return api.CreateModelVersion.Response(model_version=message)

    def get_version(self, workspace: str, request: Message) -> Message:
        """`model-versions/get`."""
        version = self._existing(f"{_id(workspace, request.name)}/versions/{request.version}")
        message = _version_message(request.name, version)
        return api.GetModelVersion.Response(model_version=message)

    def _files(self, workspace: str, source: str) -> str:
        match = _SOURCE.fullmatch(source)
        if match is None or match[1].lower() != workspace.lower():
            message = f"{source} is not of this workspace."
            raise MlflowException(message, error_code=_INVALID_PARAMETER_VALUE)
        path = f"ExperimentRun/dcid.{match[2]}/{match[3]}"
        store = self._existing(f"{workspace}/datastores/workspaceartifactstore")
        container = self.accounts.container(store["properties"]["accountName"], ARTIFACTS)
        if not container.get_blob_client(f"{path}/MLmodel").exists():
            message = f"There is no MLmodel in {source}."
            raise MlflowException(message, error_code=_INVALID_PARAMETER_VALUE)
        scope = workspace.lstrip("/").replace("/providers/Microsoft.MachineLearningServices", "")
        return f"azureml://{scope}/datastores/workspaceartifactstore/paths/{path}"

    def _existing(self, id: str) -> Json:
        resource = self.resources.get(id)
        if resource is None:
            message = f"There is no {id.rpartition('/')[2]}."
            raise MlflowException(message, error_code=_RESOURCE_DOES_NOT_EXIST)
        return resource


Verb = Callable[[ModelRegistry, str, Message], Message]
_VERBS: Final[dict[str, tuple[Callable[[], Message], Verb]]] = {
    "registered-models/create": (api.CreateRegisteredModel, ModelRegistry.create_model),
    "registered-models/get": (api.GetRegisteredModel, ModelRegistry.get_model),
    "model-versions/create": (api.CreateModelVersion, ModelRegistry.create_version),
    "model-versions/get": (api.GetModelVersion, ModelRegistry.get_version),
}


def _id(workspace: str, name: str) -> str:
    return f"{workspace}/models/{name}"


def _tags(request: Any) -> dict[str, str]:
    return {tag.key: tag.value for tag in request.tags}


def _model_message(model: Json) -> Message:
    return api.RegisteredModel(
        name=model["name"], description=model["properties"].get(_DESCRIPTION, "")
    )


def _version_message(name: str, version: Json) -> Message:
    properties = version["properties"]
    tags = [api.ModelVersionTag(key=key, value=value) for key, value in properties["tags"].items()]
    return api.ModelVersion(
        name=name,
        version=version["name"],
        source=properties["properties"]["source"],
        run_id=properties["jobName"],
        description=properties[_DESCRIPTION],
        tags=tags,
        status=api.READY,
    )

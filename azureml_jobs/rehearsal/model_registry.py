"""MLflow's model registry as a workspace offers it: registered models are the workspace's own models.

What is registered through MLflow is seen by the clients of Azure ML too, and the other way round.
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
from azureml_jobs.rehearsal.mlflow_tracking import Message, responded
from azureml_jobs.rehearsal.mounts import ARTIFACTS
from azureml_jobs.rehearsal.resources import Json, Resources

_SOURCE: Final = re.compile(
    r"azureml://[^/]+/mlflow/v2\.0(/subscriptions/.+)/experiments/[^/]+/runs/([^/]+)/artifacts/(.+)"
)
_EXISTS, _MISSING, _INVALID = (
    3001,
    5,
    1000,
)  # RESOURCE_ALREADY_EXISTS, RESOURCE_DOES_NOT_EXIST, INVALID_PARAMETER_VALUE
_DESCRIPTION: Final = "description"


@dataclass
class ModelRegistry:
    """The models of all workspaces."""

    resources: Resources
    accounts: Accounts

    def answer(self, workspace: str, verb: str, body: Json) -> Response | None:
        """Return the answer to one call, such as `registered-models/create`; None where the verb is not offered."""
        if verb not in _VERBS:
            return None
        kind, act = _VERBS[verb]
        return responded(kind(), body, lambda request: act(self, workspace, request))

    def create_model(self, workspace: str, request: Message) -> Message:
        """`registered-models/create`."""
        id = _id(workspace, request.name)
        with self.resources.lock:
            if self.resources.get(id):
                raise MlflowException(f"The model {request.name} exists.", error_code=_EXISTS)
            properties = {
                _DESCRIPTION: request.description,
                "tags": _tags(request),
                "latestVersion": "0",
            }
            made = self.resources.put(id, {"properties": properties})
        return api.CreateRegisteredModel.Response(registered_model=_shown_model(made))

    def get_model(self, workspace: str, request: Message) -> Message:
        """`registered-models/get`."""
        found = self._there(_id(workspace, request.name))
        return api.GetRegisteredModel.Response(registered_model=_shown_model(found))

    def create_version(self, workspace: str, request: Message) -> Message:
        """`model-versions/create`: from the files of a run of this workspace that MLflow knows as a model."""
        with self.resources.lock:
            model = self._there(_id(workspace, request.name))
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
            made = self.resources.put(
                f"{model['id']}/versions/{number}", {"properties": properties}
            )
            model["properties"]["latestVersion"] = number
        return api.CreateModelVersion.Response(model_version=_shown_version(request.name, made))

    def get_version(self, workspace: str, request: Message) -> Message:
        """`model-versions/get`."""
        found = self._there(f"{_id(workspace, request.name)}/versions/{request.version}")
        return api.GetModelVersion.Response(model_version=_shown_version(request.name, found))

    def _files(self, workspace: str, source: str) -> str:
        match = _SOURCE.fullmatch(source)
        if match is None or match[1].lower() != workspace.lower():
            raise MlflowException(f"{source} is not of this workspace.", error_code=_INVALID)
        path = f"ExperimentRun/dcid.{match[2]}/{match[3]}"
        store = self._there(f"{workspace}/datastores/workspaceartifactstore")
        container = self.accounts.container(store["properties"]["accountName"], ARTIFACTS)
        if not container.get_blob_client(f"{path}/MLmodel").exists():
            raise MlflowException(f"There is no MLmodel in {source}.", error_code=_INVALID)
        scope = workspace.lstrip("/").replace("/providers/Microsoft.MachineLearningServices", "")
        return f"azureml://{scope}/datastores/workspaceartifactstore/paths/{path}"

    def _there(self, id: str) -> Json:
        found = self.resources.get(id)
        if found is None:
            raise MlflowException(f"There is no {id.rpartition('/')[2]}.", error_code=_MISSING)
        return found


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


def _shown_model(model: Json) -> Message:
    return api.RegisteredModel(
        name=model["name"], description=model["properties"].get(_DESCRIPTION, "")
    )


def _shown_version(name: str, version: Json) -> Message:
    properties = version["properties"]
    tags = [api.ModelVersionTag(key=key, value=value) for key, value in properties["tags"].items()]
    return api.ModelVersion(
        name=name, version=version["name"], source=properties["properties"]["source"], run_id=properties["jobName"],
        description=properties[_DESCRIPTION], tags=tags, status=api.READY,
    )  # fmt: skip

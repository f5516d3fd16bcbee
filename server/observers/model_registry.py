"""A run's model in MLflow's registry: one version a finished run, its card as the description.

On Azure ML that registry is the workspace's own list of models. MLflow knows a model by a file
`MLmodel`; ours names safetensors as its only flavour, so that nothing in it is ever unpickled.
"""

from __future__ import annotations

import json
from typing import Any, Final

from server.run.result import RunResult

Json = dict[str, Any]

FOLDER: Final = "model"
MLMODEL: Final = f"{FOLDER}/MLmodel"
LONGEST: Final = 5000
"""Characters of a description in MLflow's own registry."""
WAIT_SECONDS: Final = 60
"""For a new version to be ready; the registry goes on without us."""
REGISTERED: Final = ("finished", "stopped_early")
"""Statuses of runs whose model is registered; that of one that broke off is logged, and no version.
"""


def facts(result: RunResult) -> Json:
    """Return what the file `MLmodel` says of a run's model, beside the MLflow run that it belongs
    to.
    """
    flavour = {
        "data": "model.safetensors",
        "code": result.environment.get("code", ""),
        "task": result.task,
    }
    return {"flavors": {"safetensors": flavour}, "utc_time_created": result.started}


def mlmodel(mlflow_run_id: str, facts: Json) -> str:
    """Return the file by which MLflow knows the folder as a model: JSON, which YAML takes too."""
    return json.dumps({"artifact_path": FOLDER, "run_id": mlflow_run_id} | facts, indent=1)


def tags(result: RunResult) -> dict[str, str]:
    """Return the tags of a registered version: which run, configuration, code and bytes it is of."""
    return {
        "meadow.run_id": result.run_id,
        "meadow.config": result.config_digest,
        "meadow.code": str(result.environment.get("code", "")),
        "meadow.sha256": str(result.model.get("sha256", "")),
    }


def register(client: Any, mlflow_run_id: str, name: str, card: str, tags: dict[str, str]) -> str:
    """Make the run's logged model the next version of a registered model; return `name:version`.

    Raises whatever MLflow's client does.
    """
    _known(client, name)
    source = f"{client.get_run(mlflow_run_id).info.artifact_uri}/{FOLDER}"
    made = client.create_model_version(
        name,
        source,
        mlflow_run_id,
        tags=tags,
        description=_shortened(card),
        await_creation_for=WAIT_SECONDS,
    )
    return f"{name}:{made.version}"


def _known(client: Any, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(
            name, description="Trained by Meadow; each version has its card."
        )
    except MlflowException:
        client.get_registered_model(name)  # there already; otherwise this says what is wrong


def _shortened(card: str) -> str:
    more = "\n\n(Shortened; card.md beside the model is the whole of it.)"
    return card if len(card) <= LONGEST else card[: LONGEST - len(more)] + more

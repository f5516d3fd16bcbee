"""The environment variables that Azure ML sets in a job, as far as its clients read them.

Microsoft publishes no complete list; these are the ones that azure-identity, azureml-mlflow and jobs seen in the open
depend on.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from conf.telemetry import OFF

INHERITED: Final = (
    "LANG",
    "HOME",
    "TMPDIR",
    "LD_LIBRARY_PATH",
    "OMP_NUM_THREADS",
    "MEADOW_TEST_SESSION",
)


@dataclass(frozen=True)
class JobFacts:
    """What the variables tell a job about itself."""

    name: str
    workspace: str  # the ARM id
    workspace_uuid: str
    experiment: str
    experiment_id: str
    host: str  # of the workspace's services
    token: str  # of the run, for its own workspace
    folder: Path


def run_variables(facts: JobFacts) -> dict[str, str]:
    """Return who and where a job is, and how it reaches its workspace."""
    _, _, subscription, _, group, _, _, _, workspace = facts.workspace.split("/")
    service = f"https://{facts.host}"
    context: dict[str, Any] = {
        "subscription_id": subscription, "resource_group": group, "workspace_name": workspace,
        "workspace_id": facts.workspace_uuid, "experiment_name": facts.experiment, "run_id": facts.name,
        "root_run_id": facts.name,
    }  # fmt: skip
    return {
        "AZUREML_RUN_ID": facts.name,
        "AZUREML_ROOT_RUN_ID": facts.name,
        "AZUREML_ARM_SUBSCRIPTION": subscription,
        "AZUREML_ARM_RESOURCEGROUP": group,
        "AZUREML_ARM_WORKSPACE_NAME": workspace,
        "AZUREML_ARM_PROJECT_NAME": facts.experiment,
        "AZUREML_EXPERIMENT_ID": facts.experiment_id,
        "AZUREML_WORKSPACE_ID": facts.workspace_uuid,
        "AZUREML_WORKSPACE_SCOPE": facts.workspace,
        "AZUREML_EXPERIMENT_SCOPE": f"{facts.workspace}/experiments/{facts.experiment}",
        "AZUREML_RUN_TOKEN": facts.token,
        "AZUREML_RUN_TOKEN_EXPIRY": str(int(time.time()) + 3600),
        "AZUREML_SERVICE_ENDPOINT": service,
        "AZUREML_RUN_HISTORY_SERVICE_ENDPOINT": service,
        "AZUREML_DISCOVERY_SERVICE_ENDPOINT": f"{service}/discovery",
        "AZUREML_CR_EXECUTION_WORKING_DIR_PATH": str(facts.folder),
        "AZUREML_CR_AZUREML_CONTEXT": json.dumps(context),
        "MLFLOW_TRACKING_URI": f"azureml://{facts.host}/mlflow/v1.0{facts.workspace}",
        "MLFLOW_TRACKING_TOKEN": facts.token,
        "MLFLOW_RUN_ID": facts.name,
        "MLFLOW_EXPERIMENT_ID": facts.experiment_id,
        "MLFLOW_EXPERIMENT_NAME": facts.experiment,
    }


def machine_variables(client: dict[str, str]) -> dict[str, str]:
    """Return what the container's image would set: this interpreter first on the path, and `client` for the cloud."""
    kept = {name: os.environ[name] for name in INHERITED if name in os.environ}
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return {**kept, "PATH": path, **OFF, "PYTHONUNBUFFERED": "1", **client}


def ranks(distribution: dict[str, Any] | None, nodes: int, port: int) -> list[dict[str, str]]:
    """Return the variables of each process of a job: one without a distribution, one a rank with PyTorch's."""
    if not distribution or str(distribution.get("distributionType", "")).lower() != "pytorch":
        return [{}]
    each = int(distribution.get("processCountPerInstance") or 1)
    return [
        {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "WORLD_SIZE": str(each * nodes),
            "RANK": str(rank),
            "LOCAL_RANK": str(rank % each),
            "NODE_RANK": str(rank // each),
        }
        for rank in range(each * nodes)
    ]

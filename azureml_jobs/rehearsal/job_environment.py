"""The environment variables that Azure ML sets in a job, as far as its clients read them.

Microsoft publishes no complete list; azure-identity, azureml-mlflow and published jobs depend on
these.
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
    """What the variables tell a job about itself.

    `workspace` is its ARM id, `host` that of its services; `token` is the run's, for its own
    workspace only.
    """

    name: str
    workspace: str
    workspace_uuid: str
    experiment: str
    experiment_id: str
    host: str
    token: str
    folder: Path


def run_variables(facts: JobFacts) -> dict[str, str]:
    """Return a job's name, folder and workspace, and how it reaches the workspace's services."""
    _, _, subscription, _, group, _, _, _, workspace = facts.workspace.split("/")
    service = f"https://{facts.host}"
    context = {
        "subscription_id": subscription,
        "resource_group": group,
        "workspace_name": workspace,
        "workspace_id": facts.workspace_uuid,
        "experiment_name": facts.experiment,
        "run_id": facts.name,
        "root_run_id": facts.name,
    }
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
    """Return what the container's image would set, with this interpreter first on the path.

    `client` holds the variables that send the Azure clients to the loopback cloud.
    """
    inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    # A rehearsal plays machines with GPUs on one that may have none (`client.placement`).
    gpu = {"MEADOW_GPU": "none"}
    return {**inherited, "PATH": path, **OFF, **gpu, "PYTHONUNBUFFERED": "1", **client}


def ranks(distribution: dict[str, Any] | None, nodes: int, port: int) -> list[dict[str, str]]:
    """Return the variables of each process of a job: one per rank with PyTorch, else one."""
    if not distribution or str(distribution.get("distributionType", "")).lower() != "pytorch":
        return [{}]
    per_node = int(distribution.get("processCountPerInstance") or 1)
    world_size = per_node * nodes
    variables = []
    for rank in range(world_size):
        of_rank = {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "WORLD_SIZE": str(world_size),
            "RANK": str(rank),
            "LOCAL_RANK": str(rank % per_node),
            "NODE_RANK": str(rank // per_node),
        }
        variables.append(of_rank)
    return variables

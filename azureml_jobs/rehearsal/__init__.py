"""A loopback cloud: what the Azure clients talk to in a rehearsal, on 127.0.0.1 and nowhere else.

The program under test keeps Azure's real host names and its default cloud. Only environment
variables differ: they name a proxy that connects a fixed list of host names to the loopback cloud
and refuses every other host.

    rehearse         a federation's whole life, each step by the role that does it on Azure
    cloud            starts all of the parts below and stops them
    certificates     a CA for one rehearsal
    proxy            host names -> local ports
    tokens, sign_in  who makes a request
    access           which identity may use which resource
    request_log      what was requested and what was refused
    arm, resources   Azure Resource Manager: workspaces, computes, datastores, jobs
    data_plane       run history, logs, outputs and artefacts
    mlflow_tracking  the tracking API, on MLflow's own store
    registered_models  the models of a workspace, through MLflow's API
    vaults           Key Vault secrets
    blobs, azurite   blob storage: Azurite behind the access table
    executor         runs each job's command as a process
    mounts, job_environment  the files and the environment variables of a job
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Final

from conf.errors import AzureError

NEEDED: Final = {"starlette": "starlette", "uvicorn": "uvicorn", "jwt": "pyjwt"}
"""The packages of the extra `rehearsal`, by the modules that are imported."""


def require() -> None:
    """Raise AzureError MDW-875 where the extra `rehearsal` is not installed, with what to install."""
    missing = [package for module, package in NEEDED.items() if find_spec(module) is None]
    if missing:
        raise AzureError(
            "MDW-875",
            f"A rehearsal needs {', '.join(missing)}, and this installation has not got them.",
            "In the folder of Meadow's source: pip install '.[rehearsal]'.",
        )

"""A loopback cloud: what the Azure clients talk to in a rehearsal, on 127.0.0.1 and nowhere else.

The program under test keeps Azure's real host names and its default cloud. Only environment
variables differ: they name a proxy that connects a fixed list of host names to the loopback cloud
and refuses every other host.

    rehearse         a federation's whole life, each step by the role that does it on Azure
    cloud            starts all of the parts below and stops them
    certificates     a CA for one rehearsal
    proxy            host names -> local ports
    demands          what this cloud demands of its clients, each setting with a reason
    durations        how long Azure takes, and how a rehearsal shortens it
    tokens, sign_in  who makes a request
    node_identity    how a job gets a token on its node
    tenants          which tenant a resource belongs to, and how a stranger is told
    access           which identity may use which resource, and since when
    firewalls        which resources are closed to the public network
    request_budget   how many requests are taken
    request_log      what was requested and what was refused
    arm, resources   Azure Resource Manager: workspaces, computes, datastores, jobs
    data_plane       run history, logs, outputs and artefacts
    mlflow_tracking  the tracking API, on MLflow's own store
    registered_models  the models of a workspace, through MLflow's API
    vaults           Key Vault secrets
    blobs, azurite   blob storage: Azurite behind the access table
    executor         the states of a job, from the build of its image to its end
    cluster_node     a job's processes, and the disk that is gone with the node
    images           whether a job's image could be built
    resolved_images  decided by a resolver, for the Python of the image's base
    networks, isolated  a network for each job: nothing in, 443 out
    relayed          a relay at which jobs meet that nobody can dial
    owners, followed  who takes part in a rehearsal, and what is shown of a run
    machines         the sizes of machines, and the quota
    foreign_jobs     what other people have sent to a workspace
    job_commands     a job's command line
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

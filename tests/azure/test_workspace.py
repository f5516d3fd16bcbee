"""What the SDK sends for Meadow's jobs, and what a workspace's answers mean; no job's process is started here."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from azureml_jobs.jobs import Code, JobSpec, server_job, silo_job
from azureml_jobs.loopback.cloud import LoopbackCloud
from azureml_jobs.workspace import Workspace
from conf.compose import compose
from conf.errors import AzureError
from conf.schema import Conf

SUBSCRIPTION = "00000000-0000-0000-0000-000000000001"
STORE, TRACKING = "https://hub.blob.core.windows.net/federation", "azureml://loopback.api.azureml.ms/x"
FEDERATION = f"""
name: hospitals
orchestrator:
  workspace: {{subscription_id: {SUBSCRIPTION}, resource_group: meadow, name: hub}}
  compute: cpu
  datastore: federation
  key_vault: kv-hub
silos:
  north:
    workspace: {{subscription_id: {SUBSCRIPTION}, resource_group: meadow, name: north}}
    compute: aks
    instance_type: gpu-small
    gpus: 2
    nodes: 2
    key_vault: kv-north
    input: {{path: "azureml://datastores/north/paths/xray/"}}
"""


@pytest.fixture
def conf(tmp_path: Path) -> Conf:
    file = tmp_path / "hospitals.yaml"
    file.write_text(FEDERATION)
    return compose([f"federation.file={file}"])


@pytest.fixture
def code(tmp_path: Path) -> Code:
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "main.py").write_text("print('hello')")
    return Code(folder, "a" * 64, "b" * 64)


@pytest.fixture
def owner(cloud: LoopbackCloud, monkeypatch: pytest.MonkeyPatch) -> LoopbackCloud:
    """The cloud with both workspaces, this process signed in as one who may use them."""
    hub, north = cloud.workspace("hub", account="hub"), cloud.workspace("north", account="north")
    cloud.compute(hub, "cpu")
    cloud.compute(north, "aks", instance_types=["gpu-small"])
    cloud.datastore(hub, "federation", "hub", "federation")
    cloud.datastore(north, "north", "north", "xray")
    for name in ("hub", "north"):
        cloud.access.grant("owner", "AzureML Data Scientist", f"workspace:{name}")
    for key, value in cloud.signed_in_as("owner").items():
        monkeypatch.setenv(key, value)
    monkeypatch.setattr(cloud.executor, "submit", lambda resource, submitter: None)
    return cloud


def sent(cloud: LoopbackCloud, spec: JobSpec) -> dict[str, Any]:
    """Return the body that the SDK sends for a job, without the ids that differ from run to run."""
    before = {str(job["id"]) for name in ("hub", "north") for job in jobs(cloud, name)}
    Workspace(spec.workspace).submit(spec)
    (made,) = [job for name in ("hub", "north") for job in jobs(cloud, name) if job["id"] not in before]
    body = {key: value for key, value in made["properties"].items() if key not in ("services", "status", "properties")}
    for key in ("codeId", "environmentId", "computeId"):
        body[key] = re.sub(
            r"[0-9a-f]{8}-[0-9a-f-]{27}|[0-9a-f]{32,64}", "HASH", body[key].rpartition("/workspaces/")[2]
        )
    return body


def jobs(cloud: LoopbackCloud, workspace: str) -> list[dict[str, Any]]:
    return cloud.resources.below(cloud.workspace(workspace, account=workspace) + "/jobs")


def test_the_body_of_the_orchestrator_s_job(owner: LoopbackCloud, conf: Conf, code: Code) -> None:
    spec = server_job(conf, code, STORE)
    assert sent(owner, spec) == {
        "jobType": "Command",
        "displayName": "hospitals: orchestrator",
        "experimentName": "meadow",
        "command": spec.command,
        "codeId": "hub/codes/HASH/versions/1",
        "environmentId": "hub/environments/CliV2AnonymousEnvironment/versions/HASH",
        "computeId": "hub/computes/cpu",
        "environmentVariables": spec.variables,
        "identity": {"identityType": "Managed"},
        "inputs": {},
        "outputs": {
            "runs": {
                "jobOutputType": "uri_folder",
                "mode": "Upload",
                "uri": "azureml://datastores/federation/paths/hospitals/outputs/${{name}}/",
            }
        },
        "limits": {"jobLimitsType": "Command", "timeout": "P7D"},
        "resources": {"instanceCount": 1, "shmSize": "2g", "properties": {}},
        "tags": spec.tags,
        "isArchived": False,
        "provisioningState": "Succeeded",
    }


def test_the_body_of_a_silo_s_job(owner: LoopbackCloud, conf: Conf, code: Code) -> None:
    spec = silo_job(conf, "north", code, TRACKING)
    body = sent(owner, spec)
    assert body["computeId"] == "north/computes/aks"
    assert body["inputs"] == {
        "data": {
            "jobInputType": "uri_folder",
            "mode": "ReadOnlyMount",
            "uri": "azureml://datastores/north/paths/xray/",
        }
    }
    assert body["distribution"] == {"distributionType": "PyTorch", "processCountPerInstance": 2}
    assert body["resources"]["instanceCount"] == 2 and body["resources"]["instanceType"] == "gpu-small"
    assert body["outputs"] == {} and body["tags"]["meadow_silo"] == "north"
    assert body["command"] == spec.command


def test_a_federation_s_jobs_are_found_by_their_tags(owner: LoopbackCloud, conf: Conf, code: Code) -> None:
    spec = server_job(conf, code, STORE)
    workspace = Workspace(spec.workspace)
    made = workspace.submit(spec)
    found = workspace.jobs_of("hospitals")
    assert made.name in [job.name for job in found] and workspace.jobs_of("other") == []
    assert (made.status, made.role, made.silo, made.live) == ("NotStarted", "server", "", True)
    assert made.studio.startswith("https://ml.azure.com/runs/")


def test_a_workspace_tells_what_jobs_need(owner: LoopbackCloud, conf: Conf) -> None:
    hub, north = Workspace(conf.federation.orchestrator.workspace), Workspace(conf.federation.silos["north"].workspace)
    assert hub.container("federation") == STORE
    assert hub.tracking_uri().startswith("azureml://loopback.api.azureml.ms/mlflow/v")
    assert north.compute("aks").instance_types == ("gpu-small",)
    cpu = hub.compute("cpu")
    assert (cpu.size.lower(), cpu.most_nodes, cpu.has_identity) == ("standard_ds3_v2", 4, True)
    assert hub.gpus_of("Standard_NC24s_v3", cpu.location) == 4
    owner.usages[:] = [
        {"id": "", "unit": "Count", "currentValue": 4, "limit": 10, "name": {"value": "standardDSv2Family"}}
    ]
    assert hub.cores_left(cpu.size, cpu.location) == 6


@pytest.mark.parametrize("ask", ["compute", "container", "job"])
def test_what_does_not_exist_is_named(owner: LoopbackCloud, conf: Conf, ask: str) -> None:
    with pytest.raises(AzureError, match=r"MDW-802.*gone.*workspace hub"):
        getattr(Workspace(conf.federation.orchestrator.workspace), ask)("gone")


def test_who_may_not_use_a_workspace_is_told_the_role(
    owner: LoopbackCloud, conf: Conf, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, value in owner.signed_in_as("stranger").items():
        monkeypatch.setenv(key, value)
    with pytest.raises(AzureError, match=r"MDW-801.*stranger.*AzureML Data Scientist"):
        Workspace(conf.federation.orchestrator.workspace).jobs_of("hospitals")

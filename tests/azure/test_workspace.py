"""What the SDK sends for Meadow's jobs, and what a workspace's answers mean; no job's process is started here."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from azure.ai.ml import MLClient, load_job
from azure.ai.ml.operations._job_ops_helper import get_git_properties

from azureml_jobs.backends.workspace import Workspace
from azureml_jobs.identity.azure_sign_in import sign_in
from azureml_jobs.jobs.specification import Code, JobSpec, as_yaml, server_job, silo_job
from azureml_jobs.preflight.data import data
from azureml_jobs.preflight.findings import ERROR, OK, WARNING
from azureml_jobs.rehearsal.cloud import LoopbackCloud
from conf.compose import compose
from conf.errors import AzureError
from conf.schema import Conf, InputConf, SiloConf, WorkspaceConf

SUBSCRIPTION = "00000000-0000-0000-0000-000000000001"
STORE, TRACKING = (
    "https://hub.blob.core.windows.net/federation",
    "azureml://loopback.api.azureml.ms/x",
)
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


def sent(
    cloud: LoopbackCloud, spec: JobSpec, submit: Callable[[JobSpec], object] | None = None
) -> dict[str, Any]:
    """Return the body that the SDK sends for a job, without the ids that differ from run to run."""
    before = {str(job["id"]) for name in ("hub", "north") for job in jobs(cloud, name)}
    (submit or Workspace(spec.workspace).submit)(spec)
    (made,) = [
        job for name in ("hub", "north") for job in jobs(cloud, name) if job["id"] not in before
    ]
    body = {
        key: value for key, value in made["properties"].items() if key not in ("services", "status")
    }
    for key in ("codeId", "environmentId", "computeId"):
        body[key] = re.sub(
            r"[0-9a-f]{8}-[0-9a-f-]{27}|[0-9a-f]{32,64}",
            "HASH",
            body[key].rpartition("/workspaces/")[2],
        )
    return body


def own_workspace(conf: Conf) -> WorkspaceConf:
    """Return the workspace of north."""
    found = conf.federation.silos["north"].workspace
    assert found is not None
    return found


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
        "properties": {},
        "isArchived": False,
        "provisioningState": "Succeeded",
    }


def silo_body(spec: JobSpec) -> dict[str, Any]:
    """Return the whole body of a job of north, in which two processes on each of two nodes share the work."""
    return {
        "jobType": "Command",
        "displayName": "hospitals: north",
        "experimentName": "meadow",
        "command": spec.command,
        "codeId": "north/codes/HASH/versions/1",
        "environmentId": "north/environments/CliV2AnonymousEnvironment/versions/HASH",
        "computeId": "north/computes/aks",
        "environmentVariables": spec.variables,
        "identity": {"identityType": "Managed"},
        "inputs": {
            "data": {
                "jobInputType": "uri_folder",
                "mode": "ReadOnlyMount",
                "uri": "azureml://datastores/north/paths/xray/",
            }
        },
        "outputs": {},
        "distribution": {"distributionType": "PyTorch", "processCountPerInstance": 2},
        "limits": {"jobLimitsType": "Command", "timeout": "P7D"},
        "resources": {
            "instanceCount": 2,
            "instanceType": "gpu-small",
            "shmSize": "2g",
            "properties": {},
        },
        "tags": spec.tags,
        "properties": {},
        "isArchived": False,
        "provisioningState": "Succeeded",
    }


def test_the_body_of_a_silo_s_job(owner: LoopbackCloud, conf: Conf, code: Code) -> None:
    spec = silo_job(conf, "north", code, TRACKING)
    assert spec.tags["meadow_silo"] == "north"
    assert sent(owner, spec) == silo_body(spec)


def alone(silo: SiloConf) -> dict[str, Any]:
    silo.gpus, silo.nodes, silo.instance_type = 0, 1, None
    return {
        "distribution": None,
        "resources": {"instanceCount": 1, "shmSize": "2g", "properties": {}},
    }


def one_gpu(silo: SiloConf) -> dict[str, Any]:
    silo.gpus, silo.nodes, silo.shm_size = 1, 1, "8g"
    resources = {"instanceCount": 1, "instanceType": "gpu-small", "shmSize": "8g", "properties": {}}
    return {"distribution": None, "resources": resources}


def four_gpus_of_a_cluster(silo: SiloConf) -> dict[str, Any]:
    silo.gpus, silo.nodes, silo.instance_type = 4, 1, None
    resources = {"instanceCount": 1, "shmSize": "2g", "properties": {}}
    return {
        "distribution": {"distributionType": "PyTorch", "processCountPerInstance": 4},
        "resources": resources,
    }


def nodes_of_one_process(silo: SiloConf) -> dict[str, Any]:
    silo.gpus, silo.nodes, silo.instance_type = 1, 3, None
    resources = {"instanceCount": 3, "shmSize": "2g", "properties": {}}
    return {
        "distribution": {"distributionType": "PyTorch", "processCountPerInstance": 1},
        "resources": resources,
    }


def users_identity(silo: SiloConf) -> dict[str, Any]:
    silo.identity = "user"
    return {"identity": {"identityType": "UserIdentity"}}


def one_file(silo: SiloConf) -> dict[str, Any]:
    silo.input = InputConf("uri_file", "azureml://datastores/north/paths/one.npz", "download")
    uri = "azureml://datastores/north/paths/one.npz"
    return {"inputs": {"data": {"jobInputType": "uri_file", "mode": "Download", "uri": uri}}}


def a_data_asset(silo: SiloConf) -> dict[str, Any]:
    silo.input = InputConf(path="azureml:xray:3")
    id = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/meadow/providers/Microsoft.MachineLearningServices"
    uri = f"{id}/workspaces/north/data/xray/versions/3"
    return {"inputs": {"data": {"jobInputType": "uri_folder", "mode": "ReadOnlyMount", "uri": uri}}}


def no_input(silo: SiloConf) -> dict[str, Any]:
    silo.input = None
    return {"inputs": {}}


@pytest.mark.parametrize(
    "variant",
    [
        alone,
        one_gpu,
        four_gpus_of_a_cluster,
        nodes_of_one_process,
        users_identity,
        one_file,
        a_data_asset,
        no_input,
    ],
)
def test_the_bodies_of_other_silos_jobs(
    owner: LoopbackCloud, conf: Conf, code: Code, variant: Callable[[SiloConf], dict[str, Any]]
) -> None:
    store = owner.datastore(owner.workspace("north", account="north"), "north", "north", "xray")
    asset = store.replace("/datastores/north", "/data/xray/versions/3")
    uri = "azureml://datastores/north/paths/xray/"
    owner.resources.put(asset, {"properties": {"dataUri": uri, "dataType": "uri_folder"}})
    differs = variant(conf.federation.silos["north"])
    spec = silo_job(conf, "north", code, TRACKING)
    wanted = {**silo_body(spec), **differs}
    assert sent(owner, spec) == {key: value for key, value in wanted.items() if value is not None}


@pytest.mark.parametrize("role", ["server", "north", "north on its own"])
def test_the_yaml_of_a_dry_run_sends_the_same_body(
    owner: LoopbackCloud,
    conf: Conf,
    code: Code,
    role: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if role == "north on its own":
        alone(conf.federation.silos["north"])
    spec = (
        server_job(conf, code, STORE)
        if role == "server"
        else silo_job(conf, "north", code, TRACKING)
    )
    monkeypatch.chdir(tmp_path)  # no repository, of which `az` would send the address

    def through_yaml(spec: JobSpec) -> None:
        file = tmp_path / "job.yaml"
        file.write_text(as_yaml(spec))
        w = spec.workspace
        ml = MLClient(
            sign_in(), w.subscription_id, w.resource_group, w.name, enable_telemetry=False
        )
        ml.jobs.create_or_update(load_job(file))

    assert sent(owner, spec, through_yaml) == sent(owner, spec)


def test_nothing_of_the_caller_s_repository_goes_with_a_job(
    owner: LoopbackCloud, conf: Conf, code: Code, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for command in (
        ["init", "--quiet", "--initial-branch", "secret-branch"],
        ["remote", "add", "origin", "https://git.example.org/secret.git?token=abc"],
        [
            "-c",
            "user.name=me",
            "-c",
            "user.email=me@example.org",
            "commit",
            "--quiet",
            "--allow-empty",
            "-m",
            "one",
        ],
    ):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AZUREML_GIT_REPOSITORY_URI", "https://git.example.org/secret.git?token=abc")
    assert (
        get_git_properties()["mlflow.source.git.branch"] == "secret-branch"
    )  # what the client would add
    assert sent(owner, server_job(conf, code, STORE))["properties"] == {}
    assert (
        os.environ["AZUREML_GIT_REPOSITORY_URI"].endswith("token=abc")
        and "GIT_DIR" not in os.environ
    )


def test_a_federation_s_jobs_are_found_by_their_tags(
    owner: LoopbackCloud, conf: Conf, code: Code
) -> None:
    spec = server_job(conf, code, STORE)
    workspace = Workspace(spec.workspace)
    made = workspace.submit(spec)
    found = workspace.jobs_of("hospitals")
    assert made.name in [job.name for job in found] and workspace.jobs_of("other") == []
    assert (made.status, made.role, made.silo, made.live) == ("NotStarted", "server", "", True)
    assert made.studio.startswith("https://ml.azure.com/runs/")


def test_a_workspace_tells_what_jobs_need(owner: LoopbackCloud, conf: Conf) -> None:
    hub, north = (
        Workspace(conf.federation.orchestrator.workspace),
        Workspace(conf.federation.silos["north"].workspace),
    )
    assert hub.container("federation") == STORE
    assert hub.tracking_uri().startswith("azureml://loopback.api.azureml.ms/mlflow/v")
    assert north.compute("aks").instance_types == ("gpu-small",)
    cpu = hub.compute("cpu")
    assert (cpu.size.lower(), cpu.most_nodes) == ("standard_ds3_v2", 4)
    assert (
        re.fullmatch(r"cpu's own identity, principal [0-9a-f-]{36}", cpu.identities[0])
        and len(cpu.identities) == 1
    )
    assert hub.gpus_of("Standard_NC24s_v3", cpu.location) == 4
    owner.machines.usages[:] = [
        {
            "id": "",
            "unit": "Count",
            "currentValue": 4,
            "limit": 10,
            "name": {"value": "standardDSv2Family"},
        }
    ]
    assert hub.cores_left(cpu.size, cpu.location) == 6


def test_data_is_seen_where_it_is_and_told_missing_where_it_is_not(
    owner: LoopbackCloud, conf: Conf
) -> None:
    owner.access.grant("owner", "Storage Blob Data Reader", "storage:north")
    owner.accounts.container("north", "xray").upload_blob(
        "scans/2024/one.npz", b"data", overwrite=True
    )
    north = Workspace(own_workspace(conf))
    assert (
        north.content("north", "scans/", file=False)
        == "https://north.blob.core.windows.net/xray/scans/"
    )
    assert north.content("north", "scans/2024", file=False) and north.content(
        "north", "", file=False
    )
    assert north.content("north", "scans/2024/one.npz", file=True)
    for path in ("scan", "scans/2025/"):
        with pytest.raises(AzureError, match=r"There is nothing at https://north\.blob"):
            north.content("north", path, file=False)


def test_data_that_only_the_job_may_read_is_told_as_such(owner: LoopbackCloud, conf: Conf) -> None:
    owner.access.grants[:] = [
        grant for grant in owner.access.grants if grant.resource != "storage:north"
    ]
    given = conf.federation.silos["north"].input
    assert given is not None
    workspace = Workspace(own_workspace(conf))
    with pytest.raises(AzureError, match=r"owner.*Storage Blob Data Reader") as refused:
        workspace.content("north", "xray/", file=False)
    assert refused.value.code == "MDW-801"
    (found,) = data("north", workspace, own_workspace(conf), given)
    assert found.state == WARNING and "can't be seen from here" in found.seen
    assert "The job's identity reads it" in found.fix


def test_a_data_asset_is_followed_to_its_files(owner: LoopbackCloud, conf: Conf) -> None:
    owner.access.grant("owner", "Storage Blob Data Reader", "storage:north")
    owner.accounts.container("north", "xray").upload_blob("asset/one.npz", b"data", overwrite=True)
    own, id = own_workspace(conf), f"{owner.workspace('north', account='north')}/data/xray/versions"
    ours = f"azureml://subscriptions/{SUBSCRIPTION}/resourcegroups/meadow/workspaces/north/datastores/north/paths/asset/"
    for version, uri in {
        "1": ours,
        "2": ours.replace("workspaces/north", "workspaces/hub"),
        "3": f"{ours}no/",
    }.items():
        owner.resources.put(
            f"{id}/{version}", {"properties": {"dataUri": uri, "dataType": "uri_folder"}}
        )
    states = {}
    for version in ("1", "2", "3", "4"):
        (found,) = data("north", Workspace(own), own, InputConf(path=f"azureml:xray:{version}"))
        states[version] = (found.state, found.seen)
    assert states["1"] == (OK, "https://north.blob.core.windows.net/xray/asset/")
    assert (
        states["2"][0] == ERROR
        and "workspaces/hub" in states["2"][1]
        and "own workspace" in states["2"][1]
    )
    assert states["3"][0] == ERROR and "nothing at" in states["3"][1]
    assert states["4"][0] == ERROR and "no data asset xray 4" in states["4"][1]


def test_a_compute_s_identities_are_told_apart(owner: LoopbackCloud, conf: Conf) -> None:
    north = owner.workspace("north", account="north")
    given = f"{north}/userAssignedIdentities/reader"
    for name, identity in {
        "none": None,
        "given": {"type": "UserAssigned", "userAssignedIdentities": {given: {"clientId": "c1", "principalId": "p1"}}},
        "both": {
            "type": "SystemAssigned,UserAssigned", "principalId": "p0",
            "userAssignedIdentities": {given: {"clientId": "c1", "principalId": "p1"}},
        },
    }.items():  # fmt: skip
        owner.compute(north, name)
        made = owner.resources.get(f"{north}/computes/{name}")
        assert made is not None
        made["identity"] = identity
    seen = {
        name: Workspace(own_workspace(conf)).compute(name).identities
        for name in ("none", "given", "both")
    }
    assert seen["none"] == ()
    assert seen["given"] == ("reader, client id c1",)
    assert seen["both"] == ("both's own identity, principal p0", "reader, client id c1")


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

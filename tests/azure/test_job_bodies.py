"""The bodies of Meadow's jobs as the SDK writes them: golden files, and at night Azure's own type data."""

from __future__ import annotations

import copy
import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from azureml_jobs.backends.workspace import as_command
from azureml_jobs.jobs.specification import Code, JobSpec, server_job, silo_job
from conf.compose import compose
from conf.schema import Conf
from tests.azure.type_data import Types, program

BODIES = Path(__file__).parent / "bodies"
SUBSCRIPTION = "00000000-0000-0000-0000-000000000001"
FEDERATION = f"""
name: hospitals
orchestrator:
  workspace: {{subscription_id: {SUBSCRIPTION}, resource_group: fl, name: hub}}
  compute: cpu
  instance_type: server-large
  datastore: federation
  key_vault: kv-hub
  rendezvous: https://flhub.blob.core.windows.net/federation-rendezvous
  timeout: 1814400
silos:
  north:
    workspace: {{subscription_id: {SUBSCRIPTION}, resource_group: fl, name: north}}
    compute: gpu-north
    gpus: 1
    key_vault: kv-north
    idle_timeout: 14400
    input: {{path: "azureml://datastores/xray/paths/2024/", mode: download}}
  south:
    workspace: {{subscription_id: {SUBSCRIPTION}, resource_group: fl, name: south}}
    compute: aks
    instance_type: gpu-small
    key_vault: kv-south
    shm_size: 8g
  west:
    workspace: {{subscription_id: {SUBSCRIPTION}, resource_group: fl, name: west}}
    compute: cpu-west
    job_tier: spot
    key_vault: kv-west
    identity: user
"""
PARTS = ("server", "north", "south", "west")


@pytest.fixture
def conf(tmp_path: Path) -> Conf:
    file = tmp_path / "hospitals.yaml"
    file.write_text(FEDERATION)
    return compose([f"federation.file={file}"])


def spec_of(conf: Conf, part: str, folder: Path) -> JobSpec:
    folder.mkdir(exist_ok=True)
    code = Code(folder, "a" * 64, "b" * 64)
    if part == "server":
        return server_job(conf, code, "https://flhub.blob.core.windows.net/federation")
    state = "https://xraynorth.blob.core.windows.net/state" if part == "north" else ""
    return silo_job(conf, part, code, "", state)


def body_of(spec: JobSpec) -> dict[str, Any]:
    """Return what the SDK would send, with the ids of what it would have uploaded first."""
    own = spec.workspace
    workspace = (
        f"/subscriptions/{own.subscription_id}/resourceGroups/{own.resource_group}"
        f"/providers/Microsoft.MachineLearningServices/workspaces/{own.name}"
    )
    job: Any = as_command(spec)._to_job()
    job.code = f"{workspace}/codes/CODE/versions/1"
    job.environment = f"{workspace}/environments/IMAGE/versions/1"
    job.compute = f"{workspace}/computes/{spec.compute}"
    # Through JSON, as it goes over the wire.
    made: dict[str, Any] = json.loads(json.dumps(job._to_rest_object().as_dict()))
    return made


@pytest.mark.parametrize("part", PARTS)
def test_the_body_of_a_job_is_the_golden_one(conf: Conf, part: str, tmp_path: Path) -> None:
    body = body_of(spec_of(conf, part, tmp_path / "code"))
    golden = BODIES / f"{part}.json"
    if os.environ.get("MEADOW_WRITE_BODIES"):
        golden.write_text(json.dumps(body, indent=2, sort_keys=True) + "\n")
    assert body == json.loads(golden.read_text()), f"renew it with MEADOW_WRITE_BODIES=1: {golden}"


# ---- Azure's own types


@cache
def types() -> Types:
    azmcp = program()
    if azmcp is None:
        pytest.skip(
            "azmcp is not installed (pip install msmcp-azure, in an environment of its own)"
        )
    return Types.of("Microsoft.MachineLearningServices/workspaces/jobs", azmcp)


def resource(part: str) -> dict[str, Any]:
    golden: dict[str, Any] = json.loads((BODIES / f"{part}.json").read_text())
    return {"name": part, **golden}


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS)
def test_azure_s_own_types_have_no_complaint_about_a_job(part: str) -> None:
    assert types().complaints(resource(part)) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"jobType": "Comand"}, "properties.jobType: 'Comand' is none of"),
        ({"comand": "x"}, "properties.comand: no such property"),
        ({"command": None}, "properties.command: None is not a string"),
        ({"identity": "Managed"}, "properties.identity: 'Managed' is not a IdentityConfiguration"),
        ({"resources": {"shmSize": "2 gigabytes"}}, "does not match"),
        ({"resources": {"instanceCount": "1"}}, "'1' is not a int"),
        ({"status": "Running"}, "properties.status: read-only"),
        ({"queueSettings": {"jobTier": "cheap"}}, "'cheap' is none of"),
    ],
)
def test_a_mistake_in_a_body_is_found(change: dict[str, Any], told: str) -> None:
    wrong = copy.deepcopy(resource("north"))
    wrong["properties"] |= change
    assert any(told in said for said in types().complaints(wrong)), types().complaints(wrong)


@pytest.mark.slow
def test_a_missing_field_is_found() -> None:
    wrong = copy.deepcopy(resource("north"))
    del wrong["properties"]["environmentId"]
    assert types().complaints(wrong) == ["properties.environmentId: missing"]

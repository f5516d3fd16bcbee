"""A job's specification says what its role needs and no more; the YAML is what Azure ML's own client reads."""

from __future__ import annotations

import dataclasses
import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from azure.ai.ml import load_job

from azureml_jobs.backends.workspace import as_command
from azureml_jobs.jobs.snapshot import snapshot
from azureml_jobs.jobs.specification import (
    ENVIRONMENTS,
    Code,
    JobSpec,
    as_plain,
    as_yaml,
    server_job,
    silo_job,
    state_address,
    unbound,
)
from conf.code_digest import release_digest
from conf.compose import compose
from conf.errors import AzureError, ConfigError
from conf.schema import Conf
from conf.telemetry import OFF

SUBSCRIPTION = "00000000-0000-0000-0000-000000000001"
TRACKING = "azureml://loopback.api.azureml.ms/mlflow/v1.0/subscriptions/s/resourceGroups/g/providers/p/workspaces/hub"
STORE = "https://hub.blob.core.windows.net/federation"
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
    compute: gpu-north
    gpus: 1
    key_vault: kv-north
    input: {{type: uri_folder, path: "azureml://datastores/north/paths/xray/", mode: ro_mount}}
  south:
    workspace: {{subscription_id: {SUBSCRIPTION}, resource_group: meadow, name: south}}
    compute: aks
    instance_type: gpu-small
    gpus: 2
    nodes: 2
    shm_size: 8g
    identity: user
    key_vault: kv-south
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
    (folder / "x.py").write_text("")
    return Code(folder, "a" * 64, "b" * 64)


def plain(spec: JobSpec) -> dict[str, Any]:
    """Return a specification without the paths of this machine."""
    found = as_plain(spec)
    found["code"], found["environment"] = "CODE", Path(found["environment"]["build"]["path"]).name
    return found


def test_the_port_for_flower_s_own_nodes_is_opened_where_it_is_asked_for(
    conf: Conf, code: Code
) -> None:
    assert "stock_listen" not in server_job(conf, code, STORE).command
    conf.federation.orchestrator.stock_listen = "0.0.0.0:9093"
    asked = server_job(conf, code, STORE).command
    assert " federation.orchestrator.stock_listen=0.0.0.0:9093 " in asked


def test_the_folders_that_runs_may_name_are_the_orchestrator_s_too(conf: Conf, code: Code) -> None:
    assert "read_from" not in server_job(conf, code, STORE).command
    conf.federation.orchestrator.read_from = ["/mnt/shared", "/mnt/with space"]
    words = shlex.split(server_job(conf, code, STORE).command)
    asked = [word for word in words if "read_from" in word]
    assert compose(asked).federation.orchestrator.read_from == ["/mnt/shared", "/mnt/with space"]


def test_the_orchestrator_s_job(conf: Conf, code: Code) -> None:
    assert plain(server_job(conf, code, STORE)) == {
        "$schema": "https://azuremlschemas.azureedge.net/latest/commandJob.schema.json",
        "type": "command",
        "display_name": "hospitals: orchestrator",
        "experiment_name": "meadow",
        "command": "python -m azureml_jobs.cli.main serve federation.file=federation.yaml"
        " federation.orchestrator.listen=0.0.0.0:9092 federation.orchestrator.host=auto"
        f" federation.orchestrator.store={STORE} federation.orchestrator.key_vault=kv-hub"
        " federation.orchestrator.idle_timeout=7200.0 \"run.output='${{outputs.runs}}'\"",
        "code": "CODE",
        "environment": "orchestrator",
        "compute": "azureml:cpu",
        "identity": {"type": "managed"},
        "environment_variables": {
            **OFF,
            "MEADOW_IDENTITY": "managed",
            "OMP_NUM_THREADS": "1",
            "PYTHONUNBUFFERED": "1",
        },
        "resources": {"instance_count": 1, "shm_size": "2g"},
        "limits": {"timeout": 604800},
        "tags": {
            "meadow_federation": "hospitals",
            "meadow_role": "server",
            "meadow_code": "a" * 64,
            "meadow_config": "b" * 64,
        },
        "outputs": {
            "runs": {
                "type": "uri_folder",
                "path": "azureml://datastores/federation/paths/hospitals/outputs/${{name}}/",
                "mode": "upload",
            }
        },
    }


def test_a_silo_s_job_has_its_data_its_vault_and_nobody_else_s(conf: Conf, code: Code) -> None:
    found = plain(silo_job(conf, "north", code, TRACKING))
    assert found["command"] == (
        "python -m azureml_jobs.cli.main join --silo-file silo.json --ca ca.pem --key-vault kv-north --state state "
        f"--tracking {TRACKING} --experiment meadow --federation hospitals --data ${{{{inputs.data}}}}"
    )
    assert found["inputs"] == {
        "data": {
            "type": "uri_folder",
            "path": "azureml://datastores/north/paths/xray/",
            "mode": "ro_mount",
        }
    }
    assert found["compute"] == "azureml:gpu-north" and found["tags"]["meadow_silo"] == "north"
    assert "outputs" not in found and "distribution" not in found
    text = json.dumps(found)
    assert not any(other in text for other in ("south", "kv-hub", STORE))


WHERE = {
    None: "https://north/workspaceblobstore/meadow/hospitals/state",
    "azureml://datastores/own": "https://north/own/meadow/hospitals/state",
    "azureml://datastores/own/paths/a/b/": "https://north/own/a/b",
    "https://north.blob.core.windows.net/own": "https://north.blob.core.windows.net/own",
    "/mnt/own": "/mnt/own",
}


def test_a_silo_that_may_idle_longer_is_told_so(conf: Conf, code: Code) -> None:
    assert "--idle-timeout" not in silo_job(conf, "north", code, TRACKING).command
    conf.federation.silos["north"].idle_timeout = 14400
    assert "--idle-timeout 14400" in silo_job(conf, "north", code, TRACKING).command


@pytest.mark.parametrize("state", WHERE)
def test_a_silo_s_state_lies_in_the_silo_s_own_storage(
    conf: Conf, code: Code, state: str | None
) -> None:
    conf.federation.silos["north"].state = state
    where = state_address(conf, "north", lambda datastore: f"https://north/{datastore}")
    assert where == WHERE[state]
    command = silo_job(conf, "north", code, TRACKING, where).command
    assert f"--state state --state-store {where} --tracking" in command


def test_several_gpus_and_nodes_are_one_job_of_many_processes(conf: Conf, code: Code) -> None:
    found = plain(silo_job(conf, "south", code, TRACKING))
    assert found["distribution"] == {"type": "pytorch", "process_count_per_instance": 2}
    assert found["resources"] == {
        "instance_count": 2,
        "shm_size": "8g",
        "instance_type": "gpu-small",
    }
    assert found["identity"] == {"type": "user_identity"}


def test_a_gateway_s_address_takes_the_place_of_the_rendezvous(conf: Conf, code: Code) -> None:
    conf.federation.orchestrator.address = "fl.example.org:443"
    line = silo_job(conf, "north", code, TRACKING).command
    assert "--server fl.example.org:443" in line and "--tracking" not in line
    assert "orchestrator.host=fl.example.org " in server_job(conf, code, STORE).command


def test_a_silo_may_look_at_one_run_of_the_orchestrator_alone(conf: Conf, code: Code) -> None:
    conf.federation.orchestrator.run_id = "brave_cat_1"
    assert (
        "--federation hospitals --run-id brave_cat_1 "
        in silo_job(conf, "north", code, TRACKING).command
    )


@pytest.mark.parametrize("role", ["orchestrator", "north", "south"])
def test_the_yaml_is_what_azure_ml_s_client_reads(
    conf: Conf, code: Code, tmp_path: Path, role: str
) -> None:
    spec = (
        server_job(conf, code, STORE)
        if role == "orchestrator"
        else silo_job(conf, role, code, TRACKING)
    )
    file = tmp_path / f"{role}.yaml"
    file.write_text(as_yaml(spec))
    assert yaml.safe_load(file.read_text()) == as_plain(spec)
    job: Any = load_job(file)
    assert (job.command, job.display_name, job.compute) == (
        spec.command,
        spec.display_name,
        spec.compute,
    )
    assert job.tags == spec.tags and job.limits.timeout == spec.timeout
    assert (job.resources.instance_count, job.resources.shm_size) == (
        spec.instance_count,
        spec.shm_size,
    )
    assert (job.distribution is not None) == spec.distributed


def test_what_a_command_binds_must_be_there(conf: Conf, code: Code) -> None:
    spec = silo_job(conf, "north", code, TRACKING)
    assert unbound(spec) == []
    assert unbound(dataclasses.replace(spec, inputs={})) == ["inputs.data"]


@pytest.mark.parametrize("key", ["workspace", "compute", "datastore", "key_vault"])
def test_what_the_orchestrator_s_job_needs_is_asked_for(conf: Conf, code: Code, key: str) -> None:
    setattr(conf.federation.orchestrator, key, None)
    with pytest.raises(AzureError, match=rf"MDW-810.*federation\.orchestrator\.{key}"):
        server_job(conf, code, STORE)


@pytest.mark.parametrize("key", ["workspace", "compute", "key_vault"])
def test_what_a_silo_s_job_needs_is_asked_for(conf: Conf, code: Code, key: str) -> None:
    setattr(conf.federation.silos["north"], key, None)
    with pytest.raises(AzureError, match=rf"MDW-810.*federation\.silos\.north\.{key}"):
        silo_job(conf, "north", code, TRACKING)


def test_an_unknown_silo_names_the_known(conf: Conf, code: Code) -> None:
    with pytest.raises(AzureError, match=r"MDW-810.*'nroth'.*north, south"):
        silo_job(conf, "nroth", code, TRACKING)


def test_a_snapshot_is_this_code_and_leaves_other_federations_behind(tmp_path: Path) -> None:
    folder = tmp_path / "snapshot"
    folder.mkdir()
    assert snapshot(folder, {"ca.pem": b"CA"}) == release_digest()
    assert (folder / "ca.pem").read_bytes() == b"CA" and (folder / "client" / "app.py").exists()
    assert (folder / "azureml_jobs" / "jobs").is_dir()
    assert not (folder / "azureml_jobs" / "rehearsal").exists()
    assert [file.name for file in (folder / "conf" / "federation").iterdir()] == ["generated.yaml"]
    assert not (folder / "conf" / "experiment").exists() and not list(folder.rglob("__pycache__"))


def test_a_value_of_the_federation_s_file_is_no_command(conf: Conf, code: Code) -> None:
    conf.federation.orchestrator.key_vault = "kv; rm -rf / $(id) 'x'"
    words = shlex.split(server_job(conf, code, STORE).command)
    assert r"federation.orchestrator.key_vault='kv; rm -rf / $(id) \'x\''" in words


BUILT = ["azureml:meadow-silo:1", "azureml://registries/hospital/environments/meadow/versions/7"]


@pytest.mark.parametrize("named", BUILT)
def test_an_environment_that_is_there_already_is_named_and_nothing_is_built(
    named: str, conf: Conf, code: Code, tmp_path: Path
) -> None:
    conf.federation.silos["north"].environment = named
    spec = silo_job(conf, "north", code, TRACKING)
    assert as_plain(spec)["environment"] == named
    assert as_command(spec).environment == named
    file = tmp_path / "job.yaml"
    file.write_text(as_yaml(spec))
    bare = named if named.startswith("azureml://") else named.removeprefix("azureml:")
    assert vars(load_job(file))["environment"] == bare, "the client resolves the rest"


def test_a_silo_may_have_the_image_for_an_older_driver(conf: Conf, code: Code) -> None:
    conf.federation.silos["north"].environment = "silo-cuda12"
    spec = silo_job(conf, "north", code, TRACKING)
    assert isinstance(spec.environment, Path) and spec.environment.name == "silo-cuda12"
    assert silo_job(conf, "south", code, TRACKING).environment == ENVIRONMENTS / "silo"


def test_an_orchestrator_s_environment_is_its_own(conf: Conf, code: Code) -> None:
    conf.federation.orchestrator.environment = BUILT[0]
    assert server_job(conf, code, STORE).environment == BUILT[0]


def test_an_image_that_there_is_not_is_refused_with_those_there_are(conf: Conf, code: Code) -> None:
    conf.federation.silos["north"].environment = "silo-cuda11"
    with pytest.raises(ConfigError, match=r"MDW-144.*silo-cuda11.*orchestrator, silo, silo-cuda12"):
        silo_job(conf, "north", code, TRACKING)


@pytest.mark.parametrize(
    "named", ["azureml:meadow-silo@latest", "azureml:meadow-silo", "/tmp/image"]
)
def test_an_environment_without_a_version_is_refused_with_the_reason(
    named: str,
) -> None:
    with pytest.raises(ConfigError, match=r"label such as @latest.*write the version"):
        compose([f"federation.silos.north.environment='{named}'"])

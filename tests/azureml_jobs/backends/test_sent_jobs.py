"""A dry run needs no sign-in, can be moved to another folder, and is whole or nothing."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from azureml_jobs.backends.sent_jobs import SentJobs
from azureml_jobs.identity import azure_sign_in
from azureml_jobs.identity.authority import CA_CERTIFICATE, make_ca
from azureml_jobs.identity.secret_store import FolderSecrets
from conf.compose import compose
from conf.errors import AzureError
from conf.schema import Conf
from tests.azure.federation import cheap_code

SUBSCRIPTION = "00000000-0000-0000-0000-000000000001"
FEDERATION = f"""
name: hospitals
orchestrator:
  workspace: {{subscription_id: {SUBSCRIPTION}, resource_group: fl, name: hub}}
  compute: cpu
  datastore: federation
  key_vault: kv-hub
  store: https://flhub.blob.core.windows.net/federation
  ca: ca.pem
silos:
  north:
    workspace: {{subscription_id: {SUBSCRIPTION}, resource_group: fl, name: north}}
    compute: gpu-north
    key_vault: kv-north
    input: {{path: "azureml://datastores/xray/paths/2024/"}}
  south:
    workspace: {{subscription_id: {SUBSCRIPTION}, resource_group: fl, name: south}}
    compute: aks
    instance_type: gpu-small
    job_tier: spot
    key_vault: kv-south
    state: https://xraysouth.blob.core.windows.net/state
"""
PARTS = ["orchestrator", "north", "south"]


@pytest.fixture
def sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SentJobs:
    from datetime import UTC, datetime

    def nobody(*_: Any) -> None:
        raise AssertionError("a dry run signs in nowhere")

    monkeypatch.setattr(azure_sign_in, "_shared", nobody)
    (tmp_path / "hospitals.yaml").write_text(FEDERATION)
    secrets = FolderSecrets(tmp_path / "keys")
    make_ca(secrets, "hospitals", datetime.now(UTC))
    (tmp_path / "ca.pem").write_bytes(secrets.get(CA_CERTIFICATE))
    tree = cheap_code(tmp_path / "tree")
    return SentJobs(conf(tmp_path), tree)


def conf(folder: Path, *overrides: str) -> Conf:
    return compose([f"federation.file={folder / 'hospitals.yaml'}", *overrides])


def load(file: Path) -> dict[str, Any]:
    made: dict[str, Any] = yaml.safe_load(file.read_text())
    return made


def test_a_dry_run_can_be_moved_and_every_path_in_it_leads_to_something_beside_it(
    sent: SentJobs, tmp_path: Path
) -> None:
    files = sent.dry_run(PARTS, tmp_path / "dry")
    assert [file.name for file in files] == [
        "server.yaml",
        "server-schedule.yaml",
        "north.yaml",
        "south.yaml",
    ]
    moved = tmp_path / "elsewhere"
    shutil.move(tmp_path / "dry", moved)
    for name in ("server", "north", "south"):
        job = load(moved / f"{name}.yaml")
        assert job["code"] == f"./{name}"
        assert job["environment"]["build"]["path"] == f"./{name}-image"
        assert (moved / name / "client" / "app.py").is_file()
        assert (moved / f"{name}-image" / "Dockerfile").is_file()
        assert str(tmp_path) not in (moved / f"{name}.yaml").read_text()
        first = (moved / f"{name}.yaml").read_text().splitlines()
        assert any(
            line.startswith(f"# az ml job create --file {name}.yaml --sub") for line in first
        )


def test_a_silo_s_job_looks_up_where_the_orchestrator_is_and_its_owner_need_not(
    sent: SentJobs, tmp_path: Path
) -> None:
    sent.dry_run(["north"], tmp_path / "dry")
    command = load(tmp_path / "dry" / "north.yaml")["command"]
    assert (
        f"--tracking azureml:///subscriptions/{SUBSCRIPTION}/resourceGroups/fl/providers/"
        "Microsoft.MachineLearningServices/workspaces/hub " in command
    )


def test_with_a_container_for_the_rendezvous_a_silo_needs_nothing_of_the_workspace(
    sent: SentJobs, tmp_path: Path
) -> None:
    place = "https://flhub.blob.core.windows.net/federation-rendezvous"
    own = conf(tmp_path, f"federation.orchestrator.rendezvous={place}")
    SentJobs(own, sent.root).dry_run(["north"], tmp_path / "dry")
    command = load(tmp_path / "dry" / "north.yaml")["command"]
    assert f"--rendezvous {place}/hospitals --federation hospitals" in command
    assert "--tracking" not in command


def test_what_could_not_be_looked_up_is_said_in_the_file(sent: SentJobs, tmp_path: Path) -> None:
    sent.dry_run(["north", "south"], tmp_path / "dry")
    north = (tmp_path / "dry" / "north.yaml").read_text()
    south = (tmp_path / "dry" / "south.yaml").read_text()
    assert north.startswith("# What the silo's algorithm remembers ends with this job")
    assert "--state-store" not in load(tmp_path / "dry" / "north.yaml")["command"]
    assert "--state-store https://xraysouth" in load(tmp_path / "dry" / "south.yaml")["command"]
    assert not south.startswith("# What")


def test_a_dry_run_that_fails_leaves_nothing(sent: SentJobs, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").unlink()
    with pytest.raises(AzureError, match="MDW-814"):
        sent.dry_run(PARTS, tmp_path / "out" / "dry")
    assert list((tmp_path / "out").iterdir()) == []
    own = conf(tmp_path, "federation.orchestrator.store=null")
    with pytest.raises(AzureError, match=r"MDW-810.*orchestrator\.store"):
        SentJobs(own, sent.root).dry_run(["orchestrator"], tmp_path / "out" / "dry")
    assert list((tmp_path / "out").iterdir()) == []


def test_the_schedule_s_job_ends_well_where_another_is_live_and_is_taken_by_the_client(
    sent: SentJobs, tmp_path: Path
) -> None:
    from azure.ai.ml.entities._load_functions import load_schedule

    sent.dry_run(["orchestrator"], tmp_path / "dry")
    file = tmp_path / "dry" / "server-schedule.yaml"
    made: Any = load_schedule(file)
    assert (made.name, made.trigger.frequency) == ("meadow-hospitals-server", "hour")
    pipeline = load(tmp_path / "dry" / "server-pipeline.yaml")
    step = pipeline["jobs"]["server"]
    assert "federation.orchestrator.standby=true" in step["command"]
    assert "standby" not in load(tmp_path / "dry" / "server.yaml")["command"]
    assert pipeline["tags"]["meadow_role"] == "server"
    assert pipeline["jobs"]["server"]["code"] == "./server"
    assert made.create_job._validate().passed


def test_a_spot_tier_and_an_instance_type_reach_the_job(sent: SentJobs, tmp_path: Path) -> None:
    own = conf(tmp_path, "federation.orchestrator.instance_type=server-large")
    SentJobs(own, sent.root).dry_run(PARTS, tmp_path / "dry")
    assert load(tmp_path / "dry" / "south.yaml")["queue_settings"] == {"job_tier": "spot"}
    server = load(tmp_path / "dry" / "server.yaml")
    assert server["resources"]["instance_type"] == "server-large"

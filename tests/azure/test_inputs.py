"""A job's data: read with the role of the identity that the job has, mounted so that it can't be written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from azure.ai.ml import Input, UserIdentityConfiguration, command
from azure.ai.ml.entities import Environment

from azureml_jobs.backends.workspace import Workspace
from azureml_jobs.rehearsal.executor import Job
from azureml_jobs.rehearsal.rehearse import owner
from tests.azure.federation import Federation, until

PATH = "azureml://datastores/xray/paths/2024/"
READS = "cat ${{inputs.data}}/a.txt; touch ${{inputs.data}}/b.txt && echo written; true"


@pytest.fixture
def xray(federation: Federation) -> Federation:
    """North has data in an account that no key opens, and its compute no role there yet."""
    workspace = federation.rehearsal._workspaces["north"]
    federation.cloud.datastore(workspace, "xray", "west", "xray")
    container = federation.cloud.accounts.container("west", "xray")
    container.upload_blob("2024/a.txt", b"data\n", overwrite=True)
    return federation


def sent(federation: Federation, mode: str = "ro_mount", **more: Any) -> Job:
    made = command(
        code=federation.code,
        command=READS,
        environment=Environment(image="mcr.microsoft.com/azureml/base", name="t", version="1"),
        compute="gpu-north",
        inputs={"data": Input(type="uri_folder", path=PATH, mode=mode)},
        **more,
    )
    workspace = federation.rehearsal.conf().federation.silos["north"].workspace
    assert workspace is not None
    with federation.rehearsal.signed_in(owner("north")):
        name = str(Workspace(workspace)._client.jobs.create_or_update(made).name)
    job = next(job for job in federation.cloud.executor.jobs.values() if job.name == name)
    until(lambda: job.status in ("Completed", "Failed"))
    return job


def log_of(job: Job) -> str:
    return "".join(path.read_text() for path in job.logs().values())


def test_without_a_role_at_the_data_a_job_never_runs(xray: Federation) -> None:
    job = sent(xray)
    assert job.status == "Failed" and not log_of(job)
    assert "north/gpu-north may not read" in job.error
    assert "Storage Blob Data Reader" in job.error
    xray.cloud.request_log.forget()


def test_mounted_data_can_be_read_and_not_written(xray: Federation) -> None:
    if not xray.cloud.networks.available:
        pytest.skip("no namespaces here")
    xray.cloud.access.grant("north/gpu-north", "Storage Blob Data Reader", "storage:west/xray")
    said = log_of(sent(xray))
    assert said.startswith("data\n") and "Read-only file system" in said
    assert "written" not in said


def test_downloaded_data_is_a_copy(xray: Federation) -> None:
    xray.cloud.access.grant("north/gpu-north", "Storage Blob Data Reader", "storage:west/xray")
    assert log_of(sent(xray, mode="download")) == "data\nwritten\n"


def test_a_user_s_job_reads_with_the_user_s_role(xray: Federation) -> None:
    xray.cloud.access.grant(owner("north"), "Storage Blob Data Reader", "storage:west/xray")
    job = sent(xray, identity=UserIdentityConfiguration())
    assert job.status == "Completed" and log_of(job).startswith("data\n")


def test_a_closed_account_is_told_as_a_network_s_fault(xray: Federation) -> None:
    xray.cloud.access.grant("north/gpu-north", "Storage Blob Data Reader", "storage:west/xray")
    xray.cloud.firewalls.close("storage:west")
    job = sent(xray)
    xray.cloud.firewalls.open("storage:west")
    assert job.status == "Failed" and "AuthorizationFailure" in job.error


def test_the_same_content_in_another_account_is_copied_and_a_changed_one_is_read(
    xray: Federation, tmp_path: Path
) -> None:
    """A federation's jobs have the same code, each in its own account: it is asked for once."""
    mounts = xray.cloud.executor.services.mounts
    for account in ("north", "west"):
        container = xray.cloud.accounts.container(account, "codes")
        container.upload_blob("one/a.py", b"the same", overwrite=True)
        mounts.uploaded(f"https://{account}.blob.core.windows.net/codes/one", tmp_path / account)
        assert (tmp_path / account / "a.py").read_bytes() == b"the same"
    assert list(mounts._kept.values()).count(b"the same") == 1
    container.upload_blob("one/a.py", b"changed", overwrite=True)
    mounts.uploaded("https://west.blob.core.windows.net/codes/one", tmp_path / "again")
    assert (tmp_path / "again" / "a.py").read_bytes() == b"changed"

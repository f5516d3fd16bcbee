"""Azure's own client against the loopback cloud: a job really runs, is followed, cancelled and downloaded."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from azure.ai.ml import Input, MLClient, Output, command
from azure.ai.ml.entities import Environment, Job
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.identity import DefaultAzureCredential

from azureml_jobs.rehearsal.cloud import LoopbackCloud

SUBSCRIPTION = "00000000-0000-0000-0000-000000000001"


def client(
    cloud: LoopbackCloud, monkeypatch: pytest.MonkeyPatch, workspace: str, who: str = "engineer"
) -> MLClient:
    """Return the client of a workspace, signed in as a service principal."""
    for name, value in cloud.signed_in_as(who).items():
        monkeypatch.setenv(name, value)
    return MLClient(
        DefaultAzureCredential(), SUBSCRIPTION, "meadow", workspace, enable_telemetry=False
    )


def job(code: Path, line: str, **more: object) -> Job:
    environment = Environment(
        image="mcr.microsoft.com/azureml/base", name="meadow-test", version="1"
    )
    return command(code=code, command=line, environment=environment, compute="cpu", **more)


@pytest.fixture
def code(tmp_path: Path) -> Path:
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "hello.py").write_text(
        "import sys, os\nprint('hello', *sys.argv[1:], os.environ['AZUREML_RUN_ID'])\n"
    )
    return folder


@pytest.fixture
def hub(cloud: LoopbackCloud) -> str:
    workspace = cloud.workspace("hub", account="hub")
    cloud.compute(workspace, "cpu")
    cloud.access.grant("engineer", "AzureML Data Scientist", "workspace:hub")
    return workspace


def wait_for(ml: MLClient, name: str, *statuses: str, seconds: float = 60) -> str:
    end = time.monotonic() + seconds
    while (status := str(getattr((now := ml.jobs.get(name).status), "value", now))) not in statuses:
        assert time.monotonic() < end, f"{name} is {status}"
        time.sleep(0.1)
    return status


def test_a_job_runs_is_followed_and_downloaded(
    cloud: LoopbackCloud, hub: str, code: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    cloud.datastore(hub, "federation", "hub", "federation")
    cloud.access.grant("hub/cpu", "Storage Blob Data Contributor", "storage:hub")
    cloud.access.grant("engineer", "Storage Blob Data Reader", "storage:hub")
    cloud.accounts.container("hub", "federation").upload_blob("in/a.txt", b"data", overwrite=True)
    ml = client(cloud, monkeypatch, "hub")
    line = "sleep 1; python hello.py ${{inputs.word}} && cat ${{inputs.data}}/a.txt && cp hello.py ${{outputs.out}}/"
    sent = ml.jobs.create_or_update(
        job(
            code, line,
            inputs={"word": "world", "data": Input(type="uri_folder", path="azureml://datastores/federation/paths/in/")},
            outputs={"out": Output(type="uri_folder", path="azureml://datastores/federation/paths/out/${{name}}/")},
        )
    )  # fmt: skip
    ml.jobs.stream(sent.name)
    assert f"hello world {sent.name}\ndata" in capfd.readouterr().out
    ml.jobs.download(sent.name, download_path=tmp_path / "got", all=True)
    assert list((tmp_path / "got").rglob("hello.py")), sorted(
        map(str, (tmp_path / "got").rglob("*"))
    )
    assert cloud.request_log.refused() == []


def test_a_running_job_is_cancelled(
    cloud: LoopbackCloud, hub: str, code: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ml = client(cloud, monkeypatch, "hub")
    sent = ml.jobs.create_or_update(job(code, "sleep 600"))
    wait_for(ml, sent.name, "Running")
    ml.jobs.begin_cancel(sent.name).result()
    assert wait_for(ml, sent.name, "Canceled", "Failed", "Completed") == "Canceled"


def test_a_failed_job_says_with_what_status(
    cloud: LoopbackCloud, hub: str, code: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ml = client(cloud, monkeypatch, "hub")
    sent = ml.jobs.create_or_update(job(code, "exit 7"))
    assert wait_for(ml, sent.name, "Failed") == "Failed"
    with pytest.raises(Exception, match="status code 7"):
        ml.jobs.stream(sent.name)


def test_a_stranger_may_not_submit(
    cloud: LoopbackCloud, hub: str, code: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ml = client(cloud, monkeypatch, "hub", who="stranger")
    with pytest.raises(HttpResponseError, match="does not have authorization"):
        ml.jobs.create_or_update(job(code, "true"))
    assert {(t.identity, t.resource) for t in cloud.request_log.refused()} == {
        ("stranger", "workspace:hub")
    }


def test_an_unknown_compute_is_refused(
    cloud: LoopbackCloud, hub: str, code: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ml = client(cloud, monkeypatch, "hub")
    wrong = job(code, "true")
    wrong.compute = "gone"
    with pytest.raises((HttpResponseError, ResourceNotFoundError), match="gone"):
        ml.jobs.create_or_update(wrong)

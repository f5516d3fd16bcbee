"""What a busy subscription is like: pages, throttling, quota, roles that take time, closed networks."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from typing import Any

import pytest
from azure.ai.ml import MLClient
from azure.core.exceptions import HttpResponseError
from azure.identity import DefaultAzureCredential
from azure.keyvault.secrets import SecretClient
from azure.storage.blob import ContainerClient

from azureml_jobs.rehearsal.cloud import LoopbackCloud
from azureml_jobs.rehearsal.demands import Demands, Preempted
from azureml_jobs.rehearsal.durations import Durations
from azureml_jobs.rehearsal.executor import Job
from azureml_jobs.rehearsal.request_budget import Bucket, RequestBudget
from tests.azure.federation import Federation, until
from tests.azure.test_cloud import client


@pytest.fixture
def demands(cloud: LoopbackCloud) -> Iterator[Demands]:
    """The cloud's demands, put back afterwards."""
    before = dataclasses.replace(cloud.demands)
    yield cloud.demands
    vars(cloud.demands).update(vars(before))
    cloud.machines.usages.clear()


def job_of(federation: Federation, name: str) -> Job:
    return next(job for job in federation.cloud.executor.jobs.values() if job.name == name)


def log_of(job: Job) -> str:
    return "".join(path.read_text() for path in job.logs().values())


def test_a_list_of_jobs_comes_in_pages_among_those_of_others(
    cloud: LoopbackCloud, demands: Demands, monkeypatch: pytest.MonkeyPatch
) -> None:
    demands.foreign_jobs, demands.page = 35, 10
    cloud.workspace("paged", account="hub")
    cloud.access.grant("engineer", "Reader", "workspace:paged")
    ml = client(cloud, monkeypatch, "paged")
    cloud.request_log.forget()
    jobs = list(ml.jobs.list())
    assert len({job.name for job in jobs if job is not None}) == 35
    assert len([line for line in cloud.request_log.requests if "/jobs 200" in line]) == 4


def test_who_asks_too_often_is_told_when_to_come_again(
    cloud: LoopbackCloud, demands: Demands, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud.workspace("busy", account="hub")
    cloud.access.grant("engineer", "Reader", "workspace:busy")
    demands.budget = RequestBudget(reads=Bucket(3, 2.0))
    for name, value in cloud.signed_in_as("engineer").items():
        monkeypatch.setenv(name, value)
    subscription = "00000000-0000-0000-0000-000000000001"
    impatient = MLClient(
        DefaultAzureCredential(), subscription, "meadow", "busy", retry_total=0
    )  # fmt: skip
    with pytest.raises(HttpResponseError, match="SubscriptionRequestsThrottled") as told:
        for _ in range(4):
            impatient.workspaces.get("busy")
    answer: Any = told.value.response
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "1")
    # Azure's own client waits as long as it is told, and asks again.
    patient = client(cloud, monkeypatch, "busy")
    assert [patient.workspaces.get("busy").name for _ in range(4)] == ["busy"] * 4


def test_a_job_without_quota_stays_in_the_queue_and_the_cluster_says_why(
    federation: Federation, demands: Demands, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation.cloud.machines.limit("standardNCSv3Family", 0)
    job = job_of(federation, federation.job("north", "true"))
    until(
        lambda: job.status == "Queued" and bool(job.compute["properties"]["properties"]["errors"])
    )
    (error,) = job.compute["properties"]["properties"]["errors"]
    assert error["error"]["code"] == "ClusterCoreQuotaReached"
    federation.cloud.machines.limit("standardNCSv3Family", 6)
    until(lambda: job.status == "Completed")
    assert job.compute["properties"]["properties"]["errors"] == []


def test_a_job_goes_through_azure_s_states_in_their_time(
    federation: Federation, demands: Demands
) -> None:
    demands.durations = Durations(build=0.4, queue=0.4, start=0.4)
    job = job_of(federation, federation.job("north", "true"))
    seen: list[str] = []
    started = time.monotonic()
    while job.status not in ("Completed", "Failed"):
        if job.status not in seen:
            seen.append(job.status)
        time.sleep(0.01)
    states = ["Preparing", "Queued", "Starting", "Running"]
    assert [status for status in seen if status in states] == states
    assert time.monotonic() - started >= demands.durations.before_running


def test_a_job_is_cancelled_while_it_waits(federation: Federation, demands: Demands) -> None:
    demands.durations = Durations(queue=600)
    job = job_of(federation, federation.job("north", "true"))
    until(lambda: job.status == "Queued")
    job.cancel()
    until(lambda: job.status == "Canceled", 10)


COUNTS = "echo one >> ~/kept; echo one >> kept; cat ~/kept kept | wc -l; echo at work; sleep 600"


def low_priority(federation: Federation) -> None:
    conf = federation.rehearsal.conf().federation.silos["north"]
    assert conf.workspace is not None
    workspace = federation.cloud.workspace("north", "north", conf.workspace.subscription_id)
    federation.cloud.compute(workspace, "gpu-north", "Standard_NC6s_v3", low_priority=True)


def test_a_low_priority_node_is_taken_away_and_the_job_starts_anew_on_an_empty_disk(
    federation: Federation, demands: Demands
) -> None:
    low_priority(federation)
    job = job_of(federation, federation.job("north", COUNTS))
    until(lambda: log_of(job).count("at work") == 1)
    job.preempt()
    until(lambda: log_of(job).count("at work") == 2)
    # Neither the home folder nor the working folder knows of the first time.
    assert log_of(job).split() == ["2", "at", "work"] * 2
    assert job.status == "Running"


def test_a_preempted_job_may_end_too(federation: Federation, demands: Demands) -> None:
    demands.preempted = Preempted.ENDED
    low_priority(federation)
    job = job_of(federation, federation.job("north", COUNTS))
    until(lambda: "at work" in log_of(job))
    job.preempt()
    until(lambda: job.status == "Canceled")


def test_a_dedicated_node_is_never_taken_away(federation: Federation) -> None:
    name = federation.job("north", COUNTS)
    federation.running(name)
    with pytest.raises(ValueError, match="low-priority"):
        job_of(federation, name).preempt()


def test_a_role_holds_some_time_after_its_assignment(
    cloud: LoopbackCloud, demands: Demands, monkeypatch: pytest.MonkeyPatch
) -> None:
    demands.durations = Durations(roles=1.5)
    cloud.access.grant("newcomer", "Key Vault Secrets User", "vault:kv-north")
    for name, value in cloud.signed_in_as("newcomer").items():
        monkeypatch.setenv(name, value)
    secrets = SecretClient("https://kv-north.vault.azure.net", DefaultAzureCredential())
    with pytest.raises(HttpResponseError, match="observe propagation time"):
        list(secrets.list_properties_of_secrets())
    time.sleep(1.5)
    list(secrets.list_properties_of_secrets())


def test_a_closed_vault_and_a_closed_account_say_that_it_is_the_network(
    cloud: LoopbackCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    for role, resource in (
        ("Key Vault Secrets User", "vault:kv-north"),
        ("Storage Blob Data Reader", "storage:north"),
    ):
        cloud.access.grant("owner outside", role, resource)
        cloud.firewalls.close(resource, inside=["north/gpu-north"])
    for name, value in cloud.signed_in_as("owner outside").items():
        monkeypatch.setenv(name, value)
    secrets = SecretClient("https://kv-north.vault.azure.net", DefaultAzureCredential())
    with pytest.raises(HttpResponseError, match="Public network access is disabled") as told:
        list(secrets.list_properties_of_secrets())
    assert told.value.error is not None
    assert told.value.error.innererror is not None
    assert told.value.error.innererror["code"] == "ForbiddenByConnection"
    container = ContainerClient.from_container_url(
        "https://north.blob.core.windows.net/data", DefaultAzureCredential()
    )
    with pytest.raises(HttpResponseError, match="AuthorizationFailure"):
        list(container.list_blob_names())
    for resource in ("vault:kv-north", "storage:north"):
        cloud.firewalls.open(resource)
    list(secrets.list_properties_of_secrets())

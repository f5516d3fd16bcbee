"""A federation's whole life on Azure ML, in the loopback cloud: real clients, real jobs, real blobs, real MLflow.

The tests share one federation and come in the order of its life.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from azure.ai.ml import load_job

from azureml_jobs.backends.base import ORCHESTRATOR
from azureml_jobs.backends.workspace import Workspace
from azureml_jobs.cli.main import main
from azureml_jobs.identity import azure_sign_in
from azureml_jobs.identity.key_vault import VaultSecrets
from azureml_jobs.identity.node_key import node_secret
from azureml_jobs.jobs.snapshot import snapshot
from azureml_jobs.rehearsal.cloud import LoopbackCloud
from azureml_jobs.rehearsal.executor import Job
from azureml_jobs.rehearsal.rehearse import ENGINEER, NAMES, Rehearsal, owner, vaults
from conf.errors import AzureError
from server.run.history import read_history
from server.run.result import RoundRecord, RunResult

RUN = [
    *("task=digits", "tracking=environment", "tracking.register=true"),
    *("run.quorum=2", "run.reconnect_patience=120", "model.hidden=[16]"),
]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rehearsal]:
    """A federation with workspaces, vaults and keys, and no job yet."""
    if shutil.which("node") is None:
        pytest.skip("Azurite needs Node, and there is none on this machine")
    before = dict(os.environ)
    for name in [
        n for n in before if n.startswith(("AZURE", "MLFLOW_")) or n.lower().endswith("_proxy")
    ]:
        del os.environ[name]
    folder = tmp_path_factory.mktemp("rehearsal")
    with LoopbackCloud(folder / "cloud", ["hub", *NAMES], vaults()) as cloud:
        tree = (
            folder / "tree"
        )  # all jobs with the same code, whatever is written in this tree meanwhile
        snapshot(tree, {})
        rehearsal = Rehearsal(cloud, folder, [*RUN, "run.rounds=3"], root=tree)
        rehearsal.build()
        rehearsal.make_keys()
        yield rehearsal
        assert (cloud.request_log.unrouted, cloud.request_log.outbound) == ([], [])
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def federation(built: Rehearsal) -> Rehearsal:
    """The same with its four jobs submitted."""
    built.check()
    for part in (ORCHESTRATOR, *NAMES):
        built.launch(part)
    return built


def job_of(rehearsal: Rehearsal, part: str) -> Job:
    """Return the newest job of the orchestrator or of a silo as the stand-in runs it."""
    jobs = [
        job
        for job in rehearsal.cloud.executor.jobs.values()
        if job.properties["displayName"].endswith(f": {part}")
    ]
    return jobs[-1]


def log_of(job: Job) -> str:
    return "".join(path.read_text(errors="replace") for path in job.logs().values())


def until(condition: Callable[[], bool], what: Callable[[], str], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, what()
        time.sleep(0.2)


def result_of(rehearsal: Rehearsal, run_id: str) -> RunResult:
    return RunResult.read(rehearsal.folder / "outputs" / run_id)


def rounds_of(rehearsal: Rehearsal, run_id: str) -> list[RoundRecord]:
    return list(read_history(rehearsal.folder / "outputs" / run_id))


def ask(rehearsal: Rehearsal, run_id: str, rounds: int) -> None:
    rehearsal.overrides = [*RUN, f"run.rounds={rounds}"]
    rehearsal.submit(run_id)


def finish(rehearsal: Rehearsal, run_id: str) -> RunResult:
    outcome = rehearsal.wait(run_id)
    assert outcome.status == "finished", (
        f"{outcome}\n{log_of(job_of(rehearsal, 'orchestrator'))[-3000:]}"
    )
    rehearsal.download(run_id, rehearsal.folder / "outputs")
    return result_of(rehearsal, run_id)


# ---- before a job is there


def test_a_missing_datastore_stops_a_launch_before_anything_is_sent(built: Rehearsal) -> None:
    built.overrides = [*RUN, "federation.orchestrator.datastore=gone"]
    with pytest.raises(AzureError, match=r"MDW-813.*datastore.*gone"):
        built.check()
    built.overrides = [*RUN, "run.rounds=3"]
    assert built.jobs() == []


def test_an_expired_token_is_told_as_such(
    built: Rehearsal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(built.cloud.tokens, "life", -10.0)
    azure_sign_in.forget()
    with built.signed_in(ENGINEER), pytest.raises(AzureError, match=r"MDW-803"):
        VaultSecrets("kv-hub").list()
    with built.signed_in(ENGINEER), pytest.raises(AzureError, match=r"MDW-80[03]"):
        built.federation().backend.job(ORCHESTRATOR)


@pytest.mark.slow
def test_a_silo_that_may_not_read_its_key_fails_with_identity_vault_and_role(
    built: Rehearsal,
) -> None:
    access = built.cloud.access
    held = list(access.grants)
    access.grants[:] = [
        g for g in held if (g.identity, g.resource) != ("west/gpu-west", "vault:kv-west")
    ]
    built.launch("west")
    job = job_of(built, "west")
    job.join()
    access.grants[:] = held
    assert job.status == "Failed"
    said = log_of(job)
    assert (
        "MDW-801" in said
        and "kv-west" in said
        and "west/gpu-west" in said
        and "Key Vault Secrets User" in said
    )
    assert [(t.identity, t.resource) for t in built.cloud.request_log.refused()] == [
        ("west/gpu-west", "vault:kv-west")
    ]
    built.cloud.request_log.forget()


def test_a_dry_run_writes_what_az_takes_and_sends_nothing(
    built: Rehearsal,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    before = len(built.cloud.executor.jobs)
    file = f"federation.file={built.folder / 'hospitals.yaml'}"
    with built.signed_in(ENGINEER):
        assert main(["launch", "all", "backend=azure", file, "--dry-run"]) == 0
    written = [Path(line) for line in capfd.readouterr().out.split()]
    assert [file.name for file in written if "schedule" in file.name] == ["server-schedule.yaml"]
    files = [file for file in written if "schedule" not in file.name]
    assert [file.stem for file in files] == ["server", *NAMES] and len(
        built.cloud.executor.jobs
    ) == before
    for path in files:
        job: Any = load_job(path)
        assert (path.parent / job.code / "client" / "app.py").exists() and job.tags[
            "meadow_federation"
        ] == "hospitals"


@pytest.mark.parametrize(
    ("who", "part"), [(ENGINEER, ["server"]), (owner("north"), ["client", "silo=north"])]
)
def test_code_from_outside_the_tree_is_in_a_job_s_snapshot_list_and_image(
    built: Rehearsal,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    who: str,
    part: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "columns.py").write_text("X = 1\n")
    (tmp_path / "wine.py").write_text("import columns\nclass Wine: requires = ('a-package>=2',)\n")
    file = f"federation.file={built.folder / 'hospitals.yaml'}"
    own = ["task.target=wine.py:Wine", "model=mlp"]
    with built.signed_in(who):
        assert main(["launch", *part, "backend=azure", file, "--dry-run", *own]) == 0
    printed = capfd.readouterr().out.split()
    named = [Path(line) for line in printed if line.endswith(".yaml")]
    files = [file for file in named if "schedule" not in file.name]
    assert len(files) == 1
    for path in files:
        job: Any = load_job(path)
        (entry,) = json.loads(job.environment_variables["MEADOW_OUTSIDE"])
        place, _, attribute = entry["target"].rpartition(":")
        assert (entry["name"], attribute) == ("wine.Wine", "Wine")
        assert not place.startswith("/") and (path.parent / job.code / place).is_file()
        assert (path.parent / job.code / place).with_name("columns.py").is_file()
        image = (path.parent / job.environment.build.path / "requirements.txt").read_text()
        assert image.splitlines()[-1] == "a-package>=2"


# ---- its life


@pytest.mark.slow
def test_a_run_goes_from_keys_to_a_model(federation: Rehearsal) -> None:
    ask(federation, "first", 3)
    finish(federation, "first")
    rounds = rounds_of(federation, "first")
    assert [record.round for record in rounds] == [1, 2, 3]
    assert all(sorted(record.replied) == sorted(NAMES) for record in rounds)
    folder = federation.folder / "outputs" / "first"
    assert (folder / "model" / "model.safetensors").stat().st_size > 1000
    assert (folder / "report.html").exists() and (folder / "ledger.jsonl").exists()


@pytest.mark.slow
def test_each_job_says_how_long_it_took_to_start(federation: Rehearsal) -> None:
    server, *silos = federation.start_up()
    seconds = re.fullmatch(
        r"  orchestrator  import ([\d.]+) s, listening ([\d.]+) s, first run ([\d.]+) s, first round ([\d.]+) s",
        server,
    )
    assert seconds is not None, server
    assert sorted(map(float, seconds.groups())) == list(map(float, seconds.groups()))
    for name, line in zip(NAMES, silos, strict=True):
        assert re.fullmatch(rf"  {name} +import [\d.]+ s, connected [\d.]+ s", line), line


@pytest.mark.slow
def test_its_metrics_are_seen_over_azureml(federation: Rehearsal) -> None:
    from mlflow.tracking import MlflowClient

    with federation.signed_in(ENGINEER):
        workspace = federation.conf().federation.orchestrator.workspace
        client = MlflowClient(tracking_uri=Workspace(workspace).tracking_uri())
        experiment = client.get_experiment_by_name("meadow")
        runs = client.search_runs([experiment.experiment_id], "tags.`meadow.run_id` = 'first'")
        assert [run.info.status for run in runs] == ["FINISHED"]
        history = client.get_metric_history(runs[0].info.run_id, "federated/accuracy")
    assert [point.step for point in history] == [1, 2, 3]


@pytest.mark.slow
def test_its_run_lies_below_the_orchestrator_s_job_with_model_and_parameters(
    federation: Rehearsal, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
    from mlflow.tracking import MlflowClient

    job = job_of(federation, "orchestrator")
    with federation.signed_in(ENGINEER):
        conf = federation.conf()
        uri = Workspace(conf.federation.orchestrator.workspace).tracking_uri()
        monkeypatch.setenv(
            "MLFLOW_TRACKING_URI", uri
        )  # for artefacts azureml-mlflow looks only there
        client = MlflowClient()
        above = client.get_run(job.name)
        below = f"tags.`mlflow.parentRunId` = '{job.name}'"
        (run,) = client.search_runs([above.info.experiment_id], below)
        files = {
            file.path
            for file in get_artifact_repository(run.info.artifact_uri).list_artifacts("model")
        }
    result = result_of(federation, "first")
    assert (
        run.info.run_id == result.mlflow_run_id != job.name
        and run.data.tags["meadow.run_id"] == "first"
    )
    assert run.data.params["silo_names"] == ", ".join(sorted(NAMES))
    assert run.data.params["config_digest"] == result.config_digest
    assert (
        run.data.params["code"]
        == result.environment["code"]
        == job.properties["tags"]["meadow_code"]
    )
    assert files == {"model/model.safetensors", "model/card.md", "model/MLmodel"}
    assert above.info.status == "RUNNING" and not above.data.metrics


@pytest.mark.slow
def test_its_model_is_registered_in_the_workspace_with_its_card(
    federation: Rehearsal, tmp_path: Path
) -> None:
    from azure.ai.ml import MLClient
    from azure.identity import DefaultAzureCredential

    result = result_of(federation, "first")
    assert result.registered_model == "hospitals-digits:1"
    where = federation.conf().federation.orchestrator.workspace
    assert where is not None
    with federation.signed_in(ENGINEER):
        ml = MLClient(
            DefaultAzureCredential(), where.subscription_id, where.resource_group, where.name
        )
        model = ml.models.get("hospitals-digits", "1")
        ml.models.download("hospitals-digits", "1", download_path=tmp_path)
    home = federation.folder / "outputs" / "first" / "model"
    assert (
        model.description == (home / "card.md").read_text()
        and model.tags["meadow.run_id"] == "first"
    )
    assert (
        model.job_name == result.mlflow_run_id
        and model.tags["meadow.sha256"] == result.model["sha256"]
    )
    (there,) = tmp_path.rglob("model.safetensors")
    assert there.read_bytes() == (home / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_a_second_launch_starts_nothing(federation: Rehearsal) -> None:
    before = set(federation.cloud.executor.jobs)
    job, started = federation.launch(ORCHESTRATOR)
    assert not started and job.part == ORCHESTRATOR
    assert [federation.launch(name)[1] for name in NAMES] == [False, False, False]
    assert set(federation.cloud.executor.jobs) == before


@pytest.mark.slow
def test_jobs_ask_only_for_what_is_their_silo_s(federation: Rehearsal) -> None:
    request_log = federation.cloud.request_log
    for name in NAMES:
        # What is in a silo's own storage is asked for by container.
        own = {f"storage:{name}", f"storage:{name}/azureml-blobstore"}
        job = {f"vault:kv-{name}", "workspace:hub", *own}
        assert request_log.resources_of(f"{name}/gpu-{name}") <= job
        assert request_log.resources_of(owner(name)) <= job | {f"workspace:{name}"}
    assert (request_log.refused(), request_log.outbound, request_log.unrouted) == ([], [], [])


@pytest.mark.slow
def test_no_private_part_is_in_a_job_or_a_log(federation: Rehearsal) -> None:
    for job in federation.cloud.executor.jobs.values():
        text = json.dumps(job.resource) + log_of(job)
        assert "PRIVATE KEY" not in text
    with federation.signed_in(owner("north")):
        secret = (
            VaultSecrets("kv-north").get(node_secret("hospitals", "north")).decode().splitlines()[1]
        )
    folders = [path for path in (federation.cloud.folder / "jobs").rglob("*") if path.is_file()]
    assert folders and not [path for path in folders if secret.encode() in path.read_bytes()]


@pytest.mark.slow
def test_a_silo_that_is_cancelled_in_the_middle_does_not_end_the_run(federation: Rehearsal) -> None:
    server = job_of(federation, "orchestrator")
    ask(federation, "second", 12)
    until(lambda: "round 2/12" in log_of(server), lambda: log_of(server)[-3000:])
    with federation.signed_in(owner("west")):
        federation.federation().backend.stop(["west"])
    finish(federation, "second")
    rounds = rounds_of(federation, "second")
    assert sorted(rounds[0].replied) == ["north", "south", "west"]
    assert sorted(rounds[-1].replied) == ["north", "south"]
    assert federation.launch("west")[1]


@pytest.mark.slow
def test_an_orchestrator_that_is_killed_goes_on_at_another_address(federation: Rehearsal) -> None:
    first = job_of(federation, "orchestrator")
    ask(federation, "third", 15)
    until(lambda: "round 3/15" in log_of(first), lambda: log_of(first)[-3000:])
    for process in psutil.Process().children(recursive=True):
        if "serve" in process.cmdline() and str(first.folder) in str(process.cwd()):
            process.kill()
    first.join()
    assert first.status == "Failed"
    job, started = federation.launch(ORCHESTRATOR)
    assert started and job.name != first.name
    finish(federation, "third")
    rounds = rounds_of(federation, "third")
    assert [record.round for record in rounds] == list(range(1, 16))
    assert sorted(rounds[-1].replied)[:2] == ["north", "south"]


@pytest.mark.slow
def test_what_is_stopped_ends_by_itself_as_completed(
    federation: Rehearsal, capfd: pytest.CaptureFixture[str]
) -> None:
    federation.stop()
    assert {job.part: job.state for job in federation.jobs()} == dict.fromkeys(
        [ORCHESTRATOR, *NAMES], "Completed"
    )
    with federation.signed_in(owner("north")):
        where = ["backend=azure", f"federation.file={federation.folder / 'hospitals.yaml'}"]
        assert main(["logs", *where, "as=silo:north"]) == 0
    assert "the federation is over" in capfd.readouterr().out

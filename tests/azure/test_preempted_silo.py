"""A silo's low-priority node is taken away in the middle of a round, with its disk."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from azureml_jobs.backends.base import ORCHESTRATOR
from azureml_jobs.jobs.snapshot import snapshot
from azureml_jobs.rehearsal.cloud import LoopbackCloud
from azureml_jobs.rehearsal.executor import Job
from azureml_jobs.rehearsal.owners import Owner
from azureml_jobs.rehearsal.rehearse import Rehearsal, vaults
from server.run.history import read_history
from server.run.result import RunResult

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
SILOS = ("north", "south")
ROUNDS = 4
RUN = [
    *("task=digits", "strategy=scaffold", "trainer.optimizer=sgd", "trainer.epochs=40"),
    *("model.hidden=[16]", "run.quorum=2", "run.reconnect_patience=300"),
    f"run.rounds={ROUNDS}",
]


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rehearsal]:
    if shutil.which("node") is None:
        pytest.skip("Azurite needs Node, and there is none on this machine")
    before = dict(os.environ)
    for name in before:
        if name.startswith(("AZURE", "MLFLOW_")) or name.lower().endswith("_proxy"):
            del os.environ[name]
    folder = tmp_path_factory.mktemp("preempted")
    owners = {"north": Owner("north", low_priority=True)}
    with LoopbackCloud(folder / "cloud", ["hub", *SILOS], vaults(SILOS)) as cloud:
        tree = folder / "tree"
        snapshot(tree, {})
        made = Rehearsal(cloud, folder, RUN, SILOS, tree, owners=owners)
        made.build()
        made.make_keys()
        for part in (ORCHESTRATOR, *SILOS):
            made.launch(part)
        yield made
    os.environ.clear()
    os.environ.update(before)


def job_of(rehearsal: Rehearsal, part: str) -> Job:
    jobs = rehearsal.cloud.executor.jobs.values()
    (job,) = [job for job in jobs if job.properties["displayName"].endswith(f": {part}")]
    return job


def log_of(job: Job) -> str:
    return "".join(path.read_text(errors="replace") for path in job.logs().values())


def until(condition: Callable[[], bool], what: Callable[[], str], seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, what()
        time.sleep(0.05)


def result_of(rehearsal: Rehearsal, run_id: str) -> Path:
    outcome = rehearsal.wait(run_id, 600)
    assert outcome.status == "finished", (outcome, log_of(job_of(rehearsal, ORCHESTRATOR))[-3000:])
    return rehearsal.download(run_id, rehearsal.folder / "outputs")


def test_a_run_whose_silo_is_preempted_has_the_bits_of_the_unbroken_one(
    rehearsal: Rehearsal,
) -> None:
    rehearsal.submit("unbroken")
    unbroken = result_of(rehearsal, "unbroken")
    server, north = job_of(rehearsal, ORCHESTRATOR), job_of(rehearsal, "north")
    starts = log_of(north).count("start-up: import")
    rehearsal.submit("broken")
    until(lambda: log_of(server).count(f"round 2/{ROUNDS}") == 2, lambda: log_of(server)[-3000:])
    # Round 3 is open: north trains, or is about to, with what it remembers of two rounds.
    north.preempt()
    broken = result_of(rehearsal, "broken")
    assert log_of(north).count("start-up: import") == starts + 1
    records = list(read_history(broken))
    assert [(record.round, sorted(record.replied)) for record in records] == [
        (round, list(SILOS)) for round in range(1, ROUNDS + 1)
    ]
    digests = [RunResult.read(folder).model["digest"] for folder in (unbroken, broken)]
    assert digests[0] == digests[1]
    assert rehearsal.cloud.request_log.refused() == []

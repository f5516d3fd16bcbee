"""The verbs of `backend=azure` against jobs that cost nothing: what is seen, told, merged, ended, with which status."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from azureml_jobs.backends.azure import AzureBackend
from azureml_jobs.backends.azure_log import AzureLog
from azureml_jobs.backends.base import ORCHESTRATOR, Job
from azureml_jobs.backends.workspace import AzureJob, Workspace
from azureml_jobs.cli import asking_again
from azureml_jobs.jobs.specification import JobSpec
from azureml_jobs.rehearsal.rehearse import ENGINEER, owner
from conf.errors import AzureError, RoundError
from server.store.run_queue import Outcome
from tests.azure.federation import SILOS, STAY, Federation, cheap_code, until

# ---- status


def test_status_is_one_table_of_which_a_role_sees_its_rows(
    federation: Federation, capfd: pytest.CaptureFixture[str]
) -> None:
    server, north = federation.job("orchestrator", STAY), federation.job("north", "true")
    until(
        lambda: all(
            job.status in ("Running", "Completed")
            for job in federation.cloud.executor.jobs.values()
        )
    )
    until(
        lambda: (
            federation.cloud.executor.jobs[next(reversed(federation.cloud.executor.jobs))].status
            == "Completed"
        )
    )
    assert federation.meadow("status") == 0
    out = capfd.readouterr().out
    head, *rows = out.partition("\n\n")[0].splitlines()
    assert [row.split()[:2] for row in rows] == [
        ["orchestrator", "Running"],
        ["north", "Completed"],
        ["south", "no"],
        ["orchestrator:", "nobody"],
    ]
    assert [row.index(job) for row, job in zip(rows, (server, north), strict=False)] == (
        [head.index("job")] * 2
    )
    assert rows[0].index("https://ml.azure.com/runs/") == head.index("where")
    assert federation.cloud.request_log.refused() == []
    assert federation.meadow("status", who=ENGINEER) == 0
    seen = capfd.readouterr().out.splitlines()
    assert seen[1].split()[:2] == rows[0].split()[:2]
    assert all(line.split()[1:3] == ["not", "seen"] for line in seen[2:4])
    assert "not yours to see: it needs the role 'Reader' there" in seen[2]
    federation.cloud.request_log.forget()
    assert federation.meadow("status", "as=silo:north", who=owner("north")) == 0
    asked = capfd.readouterr().out.splitlines()
    assert (
        "not asked" in asked[1] and asked[2].split()[1] == "Completed" and "not asked" in asked[3]
    )
    assert federation.cloud.request_log.refused() == [] and len(asked) == 4


def test_status_goes_on_where_a_workspace_is_not_there_and_ends_where_nothing_is_seen(
    federation: Federation, capfd: pytest.CaptureFixture[str]
) -> None:
    file = federation.folder / "hospitals.yaml"
    file.write_text(file.read_text().replace("name: south}", "name: gone}"))
    assert federation.meadow("status") == 0
    out = capfd.readouterr().out.splitlines()
    assert "no job" in out[1] and "no job" in out[2] and "MDW-802" in out[3]
    assert federation.meadow("status", "as=silo:north", who="stranger") == AzureError.exit_status
    told = capfd.readouterr()
    assert "not yours to see" in told.out and "error MDW-801" in told.err and "stranger" in told.err


def test_a_workspace_that_can_not_be_reached_costs_its_own_row(
    federation: Federation, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Workspace.jobs_of

    def jobs_of(self: Workspace, name: str) -> list[AzureJob]:
        if self.conf.name == "south":
            raise AzureError(
                "MDW-800", "Can't reach the workspace south: timed out.", "Check the network."
            )
        return asked(self, name)

    monkeypatch.setattr(Workspace, "jobs_of", jobs_of)
    assert federation.meadow("status") == 0
    rows = capfd.readouterr().out.splitlines()
    assert "no job" in rows[2] and rows[3].endswith(
        "not reached: Can't reach the workspace south: timed out."
    )


# ---- logs


def test_logs_f_merges_the_lines_of_all_jobs_until_they_have_ended(
    federation: Federation, capfd: pytest.CaptureFixture[str]
) -> None:
    """South speaks only when north's line has been printed: one job's end is not waited for to show another's."""
    flag = federation.folder / "flag"
    federation.job(
        "north",
        f"echo first of north; touch {flag}; while [ -e {flag} ]; do sleep 0.1; done; echo last",
    )
    federation.job(
        "south",
        f"while [ ! -e {flag} ]; do sleep 0.1; done; echo south; rm {flag}; printf 'no end'; exit 3",
    )
    assert federation.meadow("logs", "-f") == 0
    lines = capfd.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("north")] == [
        "north         first of north",
        "north         last",
        "north         Completed",
    ]
    assert [line for line in lines if line.startswith("south")] == [
        "south         south",
        "south         no end",
        "south         Failed: Execution failed. User process 'bash' exited with status code 3.",
    ]
    assert federation.meadow("logs", "-f") == federation.meadow("logs") == 0
    assert sorted(capfd.readouterr().out.splitlines()) == sorted(
        [*lines, *lines]
    )  # ended jobs say it all again


def test_logs_of_jobs_at_work_show_what_they_said_so_far(
    federation: Federation, capfd: pytest.CaptureFixture[str]
) -> None:
    federation.running(federation.job("north", STAY))
    federation.running(federation.job("orchestrator", STAY))
    assert federation.meadow("logs") == 0
    assert capfd.readouterr().out.splitlines() == [
        "orchestrator  at work",
        "north         at work",
    ]
    assert federation.meadow("logs", "silo=north") == 0
    assert capfd.readouterr().out.splitlines() == ["north         at work"]
    assert federation.meadow("logs", who=owner("north")) == AzureError.exit_status
    told = capfd.readouterr()
    assert told.out.splitlines() == [
        "orchestrator  at work",
        "north         at work",
    ]  # owners read the hub, to find the server
    assert told.err.count("MDW-801") == told.err.count("\n") == 1 and "workspace south" in told.err
    federation.cloud.request_log.forget()
    assert federation.meadow("logs", "silo=west") == 2 and "MDW-193" in capfd.readouterr().err


def test_ctrl_c_ends_logs_f_at_once_and_leaves_the_job(federation: Federation) -> None:
    name = federation.job("north", STAY)
    federation.running(name)
    with federation.rehearsal.signed_in(owner("north")):
        meadow = subprocess.Popen(
            [sys.executable, "-m", "azureml_jobs.cli.main", "logs", *federation.where, "-f", "as=silo:north"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": ROOT},
        )  # fmt: skip
    assert meadow.stdout is not None and meadow.stdout.readline() == "north         at work\n"
    begun = time.monotonic()
    meadow.send_signal(signal.SIGINT)
    _, err = meadow.communicate(timeout=30)
    assert (meadow.returncode, err) == (130, "stopped\n") and time.monotonic() - begun < 10
    (job,) = federation.cloud.executor.jobs.values()
    assert job.status == "Running"


ROOT = str(Path(__file__).parents[2])


# ---- wait


def ask(federation: Federation, run: str, outcome: Outcome | None) -> None:
    queue = federation.queue()
    with federation.rehearsal.signed_in(ENGINEER):
        request = queue.submit(run, federation.rehearsal.conf())
        if outcome is not None:
            queue.ended(request, outcome)


@pytest.mark.parametrize(
    ("outcome", "status"),
    [
        (Outcome("finished"), 0),
        (Outcome("stopped_early"), 0),
        (Outcome("failed", "MDW-201: no data", 3), 3),
        (Outcome("failed", "MDW-401: 1 of 3", RoundError.exit_status), 5),
        (Outcome("cancelled", exit=130), 130),
    ],
)
def test_wait_tells_how_a_run_ended_by_its_status(
    federation: Federation, capfd: pytest.CaptureFixture[str], outcome: Outcome, status: int
) -> None:
    ask(federation, "one", outcome)
    assert federation.meadow("wait", "run=one", who=ENGINEER) == status
    assert f"run one: {outcome.status}" in capfd.readouterr().out


def test_wait_tells_that_nobody_is_there_that_the_time_is_over_and_that_there_is_no_such_run(
    federation: Federation, capfd: pytest.CaptureFixture[str]
) -> None:
    ask(federation, "one", None)
    assert federation.meadow("wait", "run=one", who=ENGINEER) == 125
    federation.job("orchestrator", STAY)
    assert federation.meadow("wait", "run=one", "timeout=0.2", who=ENGINEER) == 124
    assert federation.meadow("wait", "run=two", who=ENGINEER) == 2
    assert federation.meadow("wait", "run=one", "timeout=soon", who=ENGINEER) == 2
    capfd.readouterr()


def test_a_wait_outlives_its_tokens_and_ends_when_no_more_are_given(
    federation: Federation, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(federation, "one", None)
    federation.job("orchestrator", STAY)
    tokens, asked = federation.cloud.tokens, AzureBackend.job
    monkeypatch.setattr(tokens, "life", 3.0)
    begun = time.monotonic()
    client = tokens.register(ENGINEER)[0].client_id

    def job(self: AzureBackend, part: str) -> Job | None:
        if time.monotonic() - begun > 5:  # several lives of a token: the account is closed
            monkeypatch.setitem(tokens._secrets, client, (tokens.register(ENGINEER)[0], "another"))
        return asked(self, part)

    monkeypatch.setattr(AzureBackend, "job", job)
    assert federation.meadow("wait", "run=one", "timeout=60", who=ENGINEER) == 126
    assert time.monotonic() - begun > 5
    assert "error MDW-803" in capfd.readouterr().err


def test_a_wait_bears_that_azure_is_not_reached_for_a_while(
    federation: Federation, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(federation, "one", Outcome("finished"))
    failures = [
        AzureError("MDW-800", "Can't reach the workspace hub."),
        AzureError("MDW-800", "Can't reach it."),
    ]

    def job(self: AzureBackend, part: str) -> Job | None:
        if failures:
            raise failures.pop()
        return None

    monkeypatch.setattr(AzureBackend, "job", job)
    assert federation.meadow("wait", "run=one", who=ENGINEER) == 0
    monkeypatch.setattr(asking_again, "PATIENCE_SECONDS", -1.0)
    failures.append(AzureError("MDW-800", "Can't reach the workspace hub."))
    assert federation.meadow("wait", "run=one", who=ENGINEER) == AzureError.exit_status
    assert "MDW-800" in capfd.readouterr().err


def test_who_may_read_the_store_alone_waits_without_seeing_the_job(federation: Federation) -> None:
    ask(federation, "one", Outcome("finished"))
    federation.cloud.access.grant("scientist", "Storage Blob Data Contributor", "storage:hub")
    assert federation.meadow("wait", "run=one", who="scientist") == 0
    federation.cloud.request_log.forget()


# ---- starting and ending


def test_stop_ends_silos_then_the_orchestrator_and_does_nothing_the_second_time(
    federation: Federation, capfd: pytest.CaptureFixture[str]
) -> None:
    names = [federation.job(part, STAY) for part in ("orchestrator", *SILOS)]
    for name in names:
        federation.running(name)
    assert federation.meadow("stop") == 0
    assert capfd.readouterr().out.splitlines() == [
        "north: Canceled",
        "south: Canceled",
        "orchestrator: Canceled",
    ]
    ends = {job.name: job.ended or 0 for job in federation.cloud.executor.jobs.values()}
    assert max(ends, key=lambda name: ends[name]) == names[0]
    assert federation.meadow("stop") == 0
    assert capfd.readouterr().out.splitlines() == ["nothing is running"]


def test_stop_ends_one_silo_or_one_run_alone(
    federation: Federation, capfd: pytest.CaptureFixture[str]
) -> None:
    for part in ("orchestrator", *SILOS):
        federation.running(federation.job(part, STAY))
    ask(federation, "one", None)
    assert federation.meadow("stop", "silo=south") == federation.meadow("stop", "run=one") == 0
    assert capfd.readouterr().out.splitlines() == [
        "south: Canceled",
        "run one: its end is requested",
    ]
    queue = federation.queue()
    with federation.rehearsal.signed_in(ENGINEER):
        assert (
            queue.is_cancelled(queue.all()[0]) and queue.outcome("one") is None
        )  # the orchestrator sees to it
    assert [job.status for job in federation.cloud.executor.jobs.values()] == [
        "Running",
        "Running",
        "Canceled",
    ]
    assert federation.meadow("stop", "run=two") == 2
    assert federation.meadow("stop", "as=orchestrator") == 0
    ask(federation, "two", None)
    assert federation.meadow("stop", "run=two") == 0
    assert federation.meadow("wait", "run=two") == 130  # nobody is there to end it


class Racing(Workspace):
    """A workspace in which another launch's job comes in between the look and one's own, or right after it."""

    other_first = True

    def submit(self, spec: JobSpec) -> AzureJob:
        if self.other_first:
            super().submit(spec)
            return super().submit(spec)
        mine = super().submit(spec)
        super().submit(spec)
        return mine


class RacingLater(Racing):
    other_first = False


@pytest.mark.parametrize("place", [Racing, RacingLater])
def test_of_two_launches_at_the_same_time_the_first_job_stays(
    federation: Federation, place: type[Racing]
) -> None:
    tree = cheap_code(federation.folder / "tree")
    with federation.rehearsal.signed_in(ENGINEER):
        launch = AzureBackend(federation.rehearsal.conf(), workspace=place, root=tree)
        job, new = launch.start(ORCHESTRATOR)
        first, second = federation.cloud.executor.jobs.values()
        assert (job.name, new) == (first.name, not place.other_first)
        if place.other_first:
            second.join()
            assert second.status == "Canceled"
        current = launch.job(ORCHESTRATOR)
        assert current is not None and launch.start(ORCHESTRATOR) == (current, False)
        assert current.name == first.name, "not the other one, which is newer"
        assert len(federation.cloud.executor.jobs) == 2
        launch.stop([ORCHESTRATOR])
    assert [job.status for job in (first, second)] == ["Canceled", "Canceled"]


def test_a_launch_that_fails_in_the_middle_leaves_nothing_at_work(
    cheap: Federation, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    begin = AzureBackend.start

    def start(self: AzureBackend, part: str) -> tuple[Job, bool]:
        if part == "south":
            raise AzureError("MDW-800", "Can't reach the workspace south.")
        return begin(self, part)

    monkeypatch.setattr(AzureBackend, "start", start)
    assert cheap.meadow("launch", "all", "run.name=one") == AzureError.exit_status
    assert "MDW-800" in capfd.readouterr().err
    assert [job.status for job in cheap.cloud.executor.jobs.values()] == ["Canceled"] * 2
    queue = cheap.queue()
    with cheap.rehearsal.signed_in(ENGINEER):
        assert queue.all() == [], "the run is asked for when all jobs run"


def test_ctrl_c_ends_the_run_of_launch_all_and_what_it_started(
    cheap: Federation, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert cheap.meadow("launch", "server") == 0
    jobs = cheap.cloud.executor.jobs

    def log_lines(self: AzureLog) -> list[tuple[str, str]]:
        if len(jobs) == 3:  # while it is followed
            raise KeyboardInterrupt
        return []

    monkeypatch.setattr(AzureLog, "lines", log_lines)
    assert cheap.meadow("launch", "all", "run.name=one") == 130
    assert [job.properties["displayName"] for job in jobs.values()][1:] == [
        "hospitals: north",
        "hospitals: south",
    ]
    assert [job.status for job in list(jobs.values())[1:]] == ["Canceled"] * 2
    assert next(iter(jobs.values())).status != "Canceled"  # it was at work before
    assert cancelled(cheap, "one")
    capfd.readouterr()


def test_what_azure_does_not_answer_during_launch_all_ends_no_job(
    cheap: Federation, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def log_lines(self: AzureLog) -> list[tuple[str, str]]:
        raise AzureError("MDW-800", "Can't reach the workspace hub.")

    monkeypatch.setattr(AzureLog, "lines", log_lines)
    monkeypatch.setattr(asking_again, "PATIENCE_SECONDS", -1.0)
    assert cheap.meadow("launch", "all", "run.name=one") == AzureError.exit_status
    assert "The jobs go on" in capfd.readouterr().err
    assert (
        not any(job.cancelled for job in cheap.cloud.executor.jobs.values())
        and len(cheap.cloud.executor.jobs) == 3
    )
    assert not cancelled(cheap, "one")


def cancelled(federation: Federation, run: str) -> bool:
    queue = federation.queue()
    with federation.rehearsal.signed_in(ENGINEER):
        outcome = queue.outcome(run)
        return queue.is_cancelled(queue.all()[0]) or (
            outcome is not None and outcome.status == "cancelled"
        )


def test_a_verb_refuses_what_another_one_takes(
    federation: Federation, capfd: pytest.CaptureFixture[str]
) -> None:
    wrong: list[tuple[Any, ...]] = [
        ("status", "run=one"), ("status", "-f"), ("submit", "silo=north"), ("wait", "run=a", "silo=north"),
        ("stop", "--open"), ("logs", "--nix"), ("launch", "client"), ("launch", "client", "silo=nix"),
        ("launch", "all", "silo=north"), ("launch", "nothing"),
    ]  # fmt: skip
    for verb, *args in wrong:
        assert federation.meadow(verb, *args) == 2, (verb, args)
        assert "MDW-111" in (told := capfd.readouterr().err) or "MDW-193" in told
    assert federation.cloud.executor.jobs == {}

"""A federation's jobs are asked for by name; a workspace is listed once, and its old pages never."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from azureml_jobs.backends import azure
from azureml_jobs.backends.azure import AzureBackend
from azureml_jobs.backends.base import ORCHESTRATOR
from azureml_jobs.backends.workspace import OLDEST_SECONDS, AzureJob, not_too_old
from azureml_jobs.identity import azure_sign_in
from conf.compose import compose
from conf.errors import AzureError
from conf.schema import WorkspaceConf

DAY = 86400.0


@dataclass
class Place:
    """A workspace whose jobs are a list, newest first, and which counts how it is asked."""

    jobs: list[AzureJob]
    asked: list[str] = field(default_factory=list)

    def jobs_of(self, federation: str) -> list[AzureJob]:
        self.asked.append("list")
        return list(self.jobs)

    def job(self, name: str) -> AzureJob:
        self.asked.append(name)
        return next(job for job in self.jobs if job.name == name)


def backend(place: Place) -> AzureBackend:
    conf = compose([])
    conf.federation.orchestrator.workspace = WorkspaceConf("s" * 36, "fl", "hub")
    opened: Any = lambda conf: place  # noqa: E731 - a workspace for whatever is asked
    return AzureBackend(conf, workspace=opened)


def server(name: str, status: str = "Running") -> AzureJob:
    return AzureJob(name, "server", "", status, "")


def test_a_job_that_is_known_is_asked_for_by_its_name_however_long_one_waits() -> None:
    place = Place([server("one")])
    waiting = backend(place)
    seen = [waiting.job(ORCHESTRATOR) for _ in range(50)]
    assert {job.name for job in seen if job} == {"one"}
    assert place.asked == ["list"] + ["one"] * 49


def test_a_successor_is_found_when_the_known_job_has_ended() -> None:
    place = Place([server("one")])
    waiting = backend(place)
    waiting.job(ORCHESTRATOR)
    place.jobs = [server("two"), server("one", "Failed")]
    now = waiting.job(ORCHESTRATOR)
    assert now is not None and (now.name, now.live) == ("two", True)
    assert place.asked == ["list", "one", "list"]


def test_how_the_job_that_ran_has_ended_is_told_and_not_that_its_twin_was_cancelled() -> None:
    """Two people launched at the same time, and the later one's job was cancelled at once."""
    place = Place([server("twin", "Canceled"), server("one")])
    waiting = backend(place)
    assert waiting.job(ORCHESTRATOR) is not None
    place.jobs[1] = server("one", "Completed")
    ended = waiting.job(ORCHESTRATOR)
    assert ended is not None and (ended.name, ended.state) == ("one", "Completed")
    place.jobs.insert(0, server("three", "Failed"))
    waiting._known.clear()
    later = waiting.job(ORCHESTRATOR)
    assert later is not None and later.name == "three"


def test_where_nothing_runs_a_workspace_is_not_listed_at_each_look(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place = Place([server("one", "Completed")])
    waiting = backend(place)
    for _ in range(20):
        job = waiting.job(ORCHESTRATOR)
        assert job is not None and not job.live
    assert place.asked == ["list"]
    monkeypatch.setattr(azure, "LIST_SECONDS", 0.0)
    waiting.job(ORCHESTRATOR)
    assert place.asked == ["list", "list"]


def test_the_oldest_live_job_is_the_one_that_is_meant() -> None:
    jobs = [server("three"), server("two"), server("one", "Failed")]
    found = backend(Place(jobs)).job(ORCHESTRATOR)
    assert found is not None and found.name == "two"
    ended = [replace(job, status="Failed") for job in jobs]
    newest = backend(Place(ended)).job(ORCHESTRATOR)
    assert newest is not None and newest.name == "three"


# ---- a listing ends early


def listed(ages: list[float | None]) -> tuple[list[float], int]:
    """Return the ages (s) of the jobs that a listing keeps, and how many it has asked for."""
    asked = 0

    def pages() -> Iterator[Any]:
        nonlocal asked
        for age in ages:
            asked += 1
            if age is None:
                yield None
                continue
            made = datetime.fromtimestamp(1e9 - age, UTC)
            yield SimpleNamespace(creation_context=SimpleNamespace(created_at=made))

    kept = [1e9 - job.creation_context.created_at.timestamp() for job in not_too_old(pages(), 1e9)]
    return kept, asked


def test_no_page_is_asked_for_after_a_job_that_is_too_old_to_run() -> None:
    ages: list[float | None] = [DAY, None, 2 * DAY, OLDEST_SECONDS + 1, 400 * DAY, 500 * DAY]
    assert listed(ages) == ([DAY, 2 * DAY], 4)


def test_where_the_newest_do_not_come_first_all_are_asked_for() -> None:
    ages: list[float | None] = [2 * DAY, DAY, 400 * DAY, 3 * DAY]
    assert listed(ages) == ([2 * DAY, DAY, 400 * DAY, 3 * DAY], 4)


# ---- nobody is signed in


def test_who_is_not_signed_in_is_told_once_and_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("AZURE", "MSI_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "EnvironmentCredential")
    azure_sign_in.forget()
    conf = compose([])
    own = conf.federation.orchestrator
    own.workspace, own.compute, own.datastore = WorkspaceConf("s" * 36, "fl", "hub"), "cpu", "fl"
    own.key_vault = "kv-hub"
    begun = time.monotonic()
    with pytest.raises(AzureError, match=r"^MDW-803: Not signed in for .*az login") as told:
        AzureBackend(conf).check(ORCHESTRATOR)
    assert "\n" not in str(told.value) and len(str(told.value)) < 500
    assert time.monotonic() - begun < 30, "seconds on a machine that does nothing else"
    azure_sign_in.forget()

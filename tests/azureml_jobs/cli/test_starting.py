"""A run is asked for when its jobs run; until then each state is one line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from azureml_jobs.backends.base import ORCHESTRATOR, Job
from azureml_jobs.backends.pauses import Pauses
from azureml_jobs.cli import starting
from azureml_jobs.cli.starting import Starting, wait_until_running
from conf.errors import AzureError


@dataclass
class Place:
    """A backend whose parts pass through given states, one a look."""

    states: dict[str, list[str]]
    files_here: bool = False

    def pauses(self) -> Pauses:
        return Pauses(0.001)

    def job(self, part: str) -> Job:
        passed = self.states[part]
        state = passed.pop(0) if len(passed) > 1 else passed[0]
        if state == "unseen":
            raise AzureError("MDW-801", "This identity may not use it.")
        if state == "unreached":
            raise AzureError("MDW-800", "Can't reach it.")
        return Job(part, f"job-{part}", state, live=state not in ("Failed", "Canceled"))

    def last_words(self, job: Job) -> str:
        return "Image build failed."


@dataclass
class Queue:
    told: list[tuple[str, dict[str, str], int]] = field(default_factory=list)

    def tell_states(self, run_id: str, states: dict[str, str], beat: int) -> None:
        self.told.append((run_id, dict(states), beat))


@dataclass
class Federation:
    backend: Any
    queue: Queue
    parts: Sequence[str] = (ORCHESTRATOR, "north", "south")


def test_all_jobs_are_waited_for_and_each_state_is_told_once() -> None:
    place: Any = Place(
        {
            ORCHESTRATOR: ["Running"],
            "north": ["Queued", "Queued", "unreached", "Preparing", "Running"],
        }
    )
    said: list[str] = []
    wait_until_running(place, [ORCHESTRATOR, "north"], said.append)
    assert said == ["waiting for north: Queued", "waiting for north: Preparing", "north runs"]


def test_a_job_that_ends_before_it_runs_is_told_with_its_last_words() -> None:
    place: Any = Place({"north": ["Preparing", "Failed"]})
    with pytest.raises(
        AzureError, match=r"MDW-821: .*north.*Failed\. Image build failed\..*silo:north"
    ):
        wait_until_running(place, ["north"], lambda line: None)


def test_on_this_machine_nothing_is_waited_for() -> None:
    place: Any = Place({}, files_here=True)
    wait_until_running(place, ["north"], lambda line: None)


def test_who_waits_for_a_run_tells_the_orchestrator_of_jobs_that_are_queued(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(starting, "LOOK_SECONDS", 0.0)
    place = Place({"north": ["Queued", "Running"], "south": ["unseen"]})
    federation: Any = Federation(place, Queue())
    said: list[str] = []
    looking = Starting(federation, "one", said.append)
    for _ in range(4):
        looking.look()
    assert federation.queue.told == [
        ("one", {"north": "Queued"}, 1),
        ("one", {"north": "Running"}, 2),
    ]
    assert said == ["waiting for north: Queued", "north runs"]

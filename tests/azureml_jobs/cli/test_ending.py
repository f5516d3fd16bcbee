"""Jobs are asked to end by themselves; only what does not answer is cancelled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from azureml_jobs.backends.base import ORCHESTRATOR, Job
from azureml_jobs.backends.pauses import Pauses
from azureml_jobs.cli import ending
from azureml_jobs.cli.ending import end_jobs
from azureml_jobs.storage.folder_store import FolderStore
from server.orchestrator.caretaker import END_FILE, STATUS_FILE


@dataclass
class Place:
    """A backend whose jobs end by themselves once the store asks for it, but for those that hang."""

    store: FolderStore
    states: dict[str, str]
    hang: Sequence[str] = ()
    files_here: bool = False
    cancelled: list[str] = field(default_factory=list)

    def pauses(self) -> Pauses:
        return Pauses(0.001)

    def job(self, part: str) -> Job:
        state = self.states[part]
        if state == "Running" and END_FILE in self.store.list() and part not in self.hang:
            state = self.states[part] = "Completed"
        return Job(part, f"job-{part}", state, live=state in ("Running", "Queued"))

    def stop(self, parts: Sequence[str]) -> list[Job]:
        self.cancelled += parts
        for part in parts:
            self.states[part] = "Canceled"
        return [replace(self.job(part), state="Canceled") for part in parts]


@dataclass
class Federation:
    backend: Any
    store: FolderStore


def federation(tmp_path: Path, states: dict[str, str], **of_place: Any) -> tuple[Any, Place]:
    store = FolderStore(tmp_path)
    store.replace(STATUS_FILE, b'{"epoch": 4}')
    place = Place(store, states, **of_place)
    return Federation(place, store), place


ALL = {ORCHESTRATOR: "Running", "north": "Running", "south": "Running"}


def test_a_federation_that_ends_well_ends_as_completed(tmp_path: Path) -> None:
    whole, place = federation(tmp_path, dict(ALL))
    ended = end_jobs(whole, list(ALL))
    assert [(job.part, job.state) for job in ended] == [
        ("north", "Completed"),
        ("south", "Completed"),
        (ORCHESTRATOR, "Completed"),
    ]
    assert place.cancelled == []
    assert whole.store.read(END_FILE) == b'{"epoch": 4}'


def test_what_does_not_answer_and_what_is_still_queued_is_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ending, "ANSWER_SECONDS", 0.05)
    states = {**ALL, "west": "Queued"}
    whole, place = federation(tmp_path, states, hang=["south"])
    ended = {job.part: job.state for job in end_jobs(whole, list(states))}
    assert ended == {
        ORCHESTRATOR: "Completed",
        "north": "Completed",
        "south": "Canceled",
        "west": "Canceled",
    }
    assert place.cancelled == ["south", "west"]


def test_an_orchestrator_that_does_not_run_is_not_asked(tmp_path: Path) -> None:
    whole, place = federation(tmp_path, {**ALL, ORCHESTRATOR: "Queued"})
    end_jobs(whole, list(ALL))
    assert place.cancelled == list(ALL) and END_FILE not in whole.store.list()


def test_one_silo_alone_and_jobs_of_this_machine_are_ended_as_ever(tmp_path: Path) -> None:
    whole, place = federation(tmp_path, dict(ALL))
    end_jobs(whole, ["north"])
    place.files_here = True
    end_jobs(whole, [ORCHESTRATOR])
    assert place.cancelled == ["north", ORCHESTRATOR] and END_FILE not in whole.store.list()

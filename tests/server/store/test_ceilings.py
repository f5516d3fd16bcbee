"""A silo's ceiling of examples is that of its signed admission, and follows it while a run lasts."""

from __future__ import annotations

from pathlib import Path

import pytest

from azureml_jobs.identity.node_key import fresh_node_key
from azureml_jobs.storage.folder_store import FolderStore
from conf.errors import CheckpointError
from server.store.admitted_keys import AdmittedKeys
from server.store.ceilings import SECONDS, Ceilings
from tests.azureml_jobs.identity.authorities import authority_in


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def admitted(tmp_path: Path, clock: Clock) -> AdmittedKeys:
    return AdmittedKeys(FolderStore(tmp_path / "store"), clock, authority_in(tmp_path / "keys"))


def admit(keys: AdmittedKeys, silo: str, **limits: float) -> None:
    keys.admit(silo, fresh_node_key()[1], limits=limits)


def test_the_ceilings_are_those_of_the_admissions(admitted: AdmittedKeys, clock: Clock) -> None:
    admit(admitted, "north", examples_at_most=500)
    admit(admitted, "south")
    assert Ceilings(admitted, clock=clock)() == {"north": 500}
    assert Ceilings(None, clock=clock)() == {}


def test_a_later_admission_changes_the_ceiling_within_half_a_minute(
    admitted: AdmittedKeys, clock: Clock
) -> None:
    ceilings = Ceilings(admitted, clock=clock)
    admit(admitted, "north", examples_at_most=500)
    assert ceilings() == {"north": 500}
    clock.now += 1
    admit(admitted, "north", examples_at_most=700)
    assert ceilings() == {"north": 500}
    clock.now += SECONDS
    assert ceilings() == {"north": 700}


def test_a_store_that_can_not_be_read_leaves_the_ceilings_as_they_were(
    admitted: AdmittedKeys, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    ceilings = Ceilings(admitted, clock=clock)
    admit(admitted, "north", examples_at_most=500)
    assert ceilings() == {"north": 500}

    def away() -> None:
        raise CheckpointError("MDW-514", "the disk fails")

    monkeypatch.setattr(admitted, "current_keys", away)
    clock.now += SECONDS
    assert ceilings() == {"north": 500}

"""A command that waits bears what may be over in a moment, for a while, and throttling for as long as
it lasts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from azureml_jobs.backends.pauses import Pauses
from azureml_jobs.cli.asking_again import PATIENCE_SECONDS, Patience
from azureml_jobs.identity.azure_answers import Answer
from azureml_jobs.identity.azure_meanings import meaning
from conf.errors import AzureError, CheckpointError


@dataclass
class Place:
    """What `Patience` asks of a backend."""

    files_here: bool = False

    def pauses(self) -> Pauses:
        return Pauses(15.0, draw=lambda: 0.5)


class Time:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Time:
    return Time()


def patience(clock: Time, **of_place: Any) -> Patience:
    place: Any = Place(**of_place)
    return Patience(place, clock)


UNREACHED = AzureError("MDW-800", "Can't reach it.")


def test_what_is_not_reached_is_borne_for_a_while(clock: Time) -> None:
    asked = patience(clock)
    for _ in range(3):
        clock.now += PATIENCE_SECONDS / 3
        asked.bear(UNREACHED)
    asked.bear(CheckpointError("MDW-515", "Can't read."))
    clock.now += 1
    with pytest.raises(AzureError, match="MDW-800"):
        asked.bear(UNREACHED)
    asked.answered()
    asked.bear(UNREACHED)


def test_throttling_is_borne_without_end_and_at_its_own_pace(clock: Time) -> None:
    asked = patience(clock)
    clock.now += 10 * PATIENCE_SECONDS
    asked.bear(meaning(Answer(429, retry_after=90), "the workspace hub", "x"))
    assert asked.pause() == 90
    asked.answered(news=True)
    assert asked.pause() == 15


@pytest.mark.parametrize("code", ["MDW-801", "MDW-803", "MDW-804", "MDW-806", "MDW-802"])
def test_what_no_other_try_helps_is_an_error_at_once(clock: Time, code: str) -> None:
    with pytest.raises(AzureError, match=code):
        patience(clock).bear(AzureError(code, "No."))


def test_on_one_s_own_machine_nothing_is_borne(clock: Time) -> None:
    with pytest.raises(AzureError):
        patience(clock, files_here=True).bear(UNREACHED)

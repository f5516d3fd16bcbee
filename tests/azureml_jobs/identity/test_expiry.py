"""What will end is announced beforehand."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta

import pytest

from azureml_jobs.identity.expiry import Reminder, Span, expiry_warning

NOW = datetime.now(UTC).replace(microsecond=0)


@pytest.mark.parametrize(
    ("life", "left", "said"),
    [
        (365, 31, None), (365, 30, "30 days"), (365, 8, "30 days"), (365, 7, "7 days"), (365, 1, "a day"),
        (365, 0, "expired on"), (14, 13.9, None), (14, 7.5, None), (15, 7, "7 days"), (14, 1, "a day"),
    ],
)  # fmt: skip
def test_expiry_is_announced_30_7_and_1_days_before(
    life: float, left: float, said: str | None
) -> None:
    ends = NOW + timedelta(days=left)
    warning = expiry_warning("The key", ends - timedelta(days=life), ends, NOW)
    assert warning is None if said is None else warning is not None and said in warning


class Clock:
    """A clock that stands still until it is moved; in days."""

    def __init__(self) -> None:
        self.days = 0.0

    def __call__(self) -> float:
        return NOW.timestamp() + self.days * 86400


def test_a_reminder_is_said_once_a_day_and_sharpens_as_the_end_comes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = Clock()
    reminder = Reminder(logging.getLogger("here"), clock)
    spans = [
        Span("The key of north", NOW - timedelta(days=365), NOW + timedelta(days=8), "Rotate it."),
        Span(
            "The key of south", NOW - timedelta(days=365), NOW + timedelta(days=100), "Rotate it."
        ),
    ]
    for _ in range(9 * 24):  # an hour each
        reminder.look(spans)
        clock.days += 1 / 24
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 9 and all(
        line.startswith("The key of north") and line.endswith("Rotate it.") for line in said
    )
    assert [line.split(" expires in ")[-1].split(" or less")[0] for line in said[:8]] == (
        ["30 days", *["7 days"] * 6, "a day"]
    )
    assert "expired on" in said[8]


def test_each_subject_has_its_own_day(caplog: pytest.LogCaptureFixture) -> None:
    reminder = Reminder(logging.getLogger("here"), Clock())
    for subject in ("key", "CA", "key"):
        reminder.say(subject, f"{subject} ends")
    assert [record.getMessage() for record in caplog.records] == ["key ends", "CA ends"]

"""Azure's times, shortened by one factor."""

from __future__ import annotations

import pytest

from azureml_jobs.rehearsal.durations import AZURE, Durations


def test_one_factor_shortens_all_of_them() -> None:
    short = AZURE.shortened(600)
    assert short == Durations(roles=1.0, build=2.0, queue=1.0, start=1.0)
    assert short.before_running == 4.0


def test_no_rehearsal_takes_longer_than_azure() -> None:
    with pytest.raises(ValueError, match=r"0\.5"):
        AZURE.shortened(0.5)

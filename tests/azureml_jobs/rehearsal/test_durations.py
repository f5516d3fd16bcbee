"""Azure's times, shortened by one factor; what Meadow waits by default is longer than they are."""

from __future__ import annotations

import pytest

from azureml_jobs.rehearsal.durations import AZURE, Durations
from conf.schema import FederationConf, OrchestratorConf, SiloConf


def test_one_factor_shortens_all_of_them() -> None:
    short = AZURE.shortened(600)
    assert short == Durations(roles=1.0, build=2.0, queue=1.0, start=1.0)
    assert short.before_running == 4.0


def test_no_rehearsal_takes_longer_than_azure() -> None:
    with pytest.raises(ValueError, match=r"0\.5"):
        AZURE.shortened(0.5)


def test_the_defaults_outlast_azure_s_times() -> None:
    """Sources are in `durations.AZURE`.

    A silo's job gets its image and its machine in less than a run waits for it. An orchestrator and
    a silo that is there already wait longer than the other side may need to begin, also where a
    role was given at the last moment.
    """
    last = AZURE.roles + AZURE.before_running
    assert OrchestratorConf().queue_timeout > AZURE.before_running
    assert OrchestratorConf().idle_timeout > last
    assert SiloConf().idle_timeout > last
    # Asked at this pace, a wait takes a fraction of what Azure lets a principal ask.
    assert FederationConf().poll_seconds >= 15

"""A central score that fails is a warning with a code, whenever it fails."""

from __future__ import annotations

import pytest
from flwr.app import ArrayRecord

from conf.errors import ConfigError, Interrupted
from server.round.scored import Pending, Scored
from server.run.result import Metrics


def failing(error: Exception) -> Pending:
    def pending() -> Metrics:
        raise error

    return pending


def test_metrics_are_given_and_nothing_is_said() -> None:
    found = Scored(lambda arrays: lambda: {"loss": 0.5}, ArrayRecord())
    assert found.metrics(1) == {"loss": 0.5} and found.why == ""
    nothing = Scored(None, ArrayRecord())
    assert nothing.metrics(1) == {} and nothing.why == ""


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("CUDA out of memory"), "RuntimeError: CUDA out of memory"),
        (ConfigError("MDW-104", "The device can't be used.", "Use auto."), "MDW-104: The device"),
    ],
)
def test_one_that_fails_gives_none_and_says_why_with_a_code(error: Exception, said: str) -> None:
    late = Scored(lambda arrays: failing(error), ArrayRecord())
    assert late.metrics(3) == {}

    def at_once(arrays: ArrayRecord) -> Pending:
        raise error

    early = Scored(at_once, ArrayRecord())
    assert early.metrics(3) == {}
    for found in (early, late):
        assert found.why.startswith("MDW-365: ") and said in found.why


def test_a_person_s_interruption_passes() -> None:
    stop = Interrupted("MDW-900", "Stopped.", "Resume it.")
    with pytest.raises(Interrupted):
        Scored(lambda arrays: failing(stop), ArrayRecord()).metrics(1)

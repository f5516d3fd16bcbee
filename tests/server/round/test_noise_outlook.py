"""Before a private run starts it says how large its noise will be."""

from __future__ import annotations

import logging

import pytest

from conf.compose import compose
from server.round.noise_outlook import outlook, say_outlook

NOISE = ["privacy.epsilon=null", "privacy.noise_multiplier=2", "privacy.clip_norm=0.5"]


def test_the_server_s_noise_is_over_all_silos_and_a_silo_s_own_is_in_each_part() -> None:
    equal = "strategy.weighting=equal"
    at_the_server = outlook(compose(["privacy=silo_dp", equal, *NOISE]), 100)
    local = outlook(compose(["privacy=local_dp", equal, *NOISE]), 100)
    assert at_the_server is not None and local is not None
    assert at_the_server.deviation == pytest.approx(2 * 0.5 / 100)
    assert local.deviation == pytest.approx(2 * 0.5 / 10)
    assert local.norm(400) == pytest.approx(2.0)
    assert outlook(compose([]), 100) is None


def test_few_silos_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    conf = compose(["privacy=silo_dp", "strategy.weighting=equal", *NOISE])
    with caplog.at_level(logging.INFO):
        say_outlook(conf, 5, 10_000)
        say_outlook(conf, 100, 10_000)
    few, many = caplog.records
    assert few.levelname == "WARNING" and many.levelname == "INFO"
    assert "noise of 0.2 in each of 10,000 weights" in few.message
    assert "of norm 20 in all, beside a mean change of norm 0.5 at most" in few.message
    assert "mostly noise" in few.message and "mostly noise" not in many.message

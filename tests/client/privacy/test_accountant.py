"""What releases cost agrees with Opacus' accountants, and the noise for an epsilon keeps to it."""

from __future__ import annotations

import pytest
from opacus.accountants import (
    PRVAccountant,
    RDPAccountant,
)

from client.privacy.accountant import LEAST_NOISE, Release, epsilon, noise_for, renyi_epsilon
from conf.errors import SiloError

DELTA = 1e-5
GRID = [
    Release(0.002, 0.7, 2000),
    Release(0.01, 0.8, 500),
    Release(0.02, 1.5, 3000),
    Release(0.05, 1.1, 200),
    Release(0.1, 1.0, 20),
    Release(0.1, 3.0, 1000),
    Release(0.3, 2.5, 60),
    Release(0.5, 4.0, 100),
    Release(1.0, 8.0, 10),
]
PRV_ERROR = 0.01
"""What Opacus adds to its estimate, to be above the truth: the truth is within twice of it below."""


@pytest.mark.parametrize("delta", [DELTA, 1e-7])
@pytest.mark.parametrize("release", GRID, ids=str)
def test_it_agrees_with_the_accountants_of_opacus(release: Release, delta: float) -> None:
    history = [(release.noise, release.rate, release.steps)]
    ours = epsilon([release], delta)
    # PRV divides by 0 where every example is in every draw.
    if release.rate < 1:
        prv = PRVAccountant()
        prv.history = history
        estimate = prv.get_epsilon(delta, eps_error=PRV_ERROR) - PRV_ERROR
        assert ours == pytest.approx(estimate, abs=PRV_ERROR)
    rdp = RDPAccountant()
    rdp.history = history
    assert renyi_epsilon([release], delta) == pytest.approx(rdp.get_epsilon(delta), rel=0.01)
    assert ours <= renyi_epsilon([release], delta)


def test_what_is_counted_depends_on_the_steps_and_not_on_how_they_are_cut() -> None:
    whole = epsilon([Release(0.05, 1.1, 30)], DELTA)
    assert epsilon([Release(0.05, 1.1, 10)] * 3, DELTA) == whole
    assert epsilon([], DELTA) == 0
    both = [Release(0.05, 1.1, 30), Release(0.02, 0.9, 10)]
    assert epsilon(both, DELTA) == epsilon(both[::-1], DELTA) > whole


def test_the_noise_for_an_epsilon_is_the_least_that_keeps_to_it() -> None:
    noise = noise_for(0.1, 40, 3.0, DELTA)
    assert epsilon([Release(0.1, noise, 40)], DELTA) <= 3.0
    assert epsilon([Release(0.1, noise * 0.99, 40)], DELTA) > 3.0


def test_the_noise_counts_what_was_released_before() -> None:
    before = (Release(0.1, 2.0, 20),)
    noise = noise_for(0.1, 20, 3.0, DELTA, before)
    assert 2.99 < epsilon([*before, Release(0.1, noise, 20)], DELTA) <= 3.0
    with pytest.raises(SiloError, match=r"MDW-378: .*released before"):
        noise_for(0.1, 20, 1.0, DELTA, before)


def test_a_large_epsilon_gets_the_least_noise_that_there_is() -> None:
    assert noise_for(0.1, 1, 1e3, DELTA) == LEAST_NOISE


def test_an_epsilon_that_no_noise_gives_is_refused() -> None:
    with pytest.raises(SiloError) as caught:
        noise_for(1.0, 10**9, 0.01, 1e-7)
    assert caught.value.code == "MDW-378"

"""A hundred thousand replies with something wrong in them: each ends at its silo."""

from __future__ import annotations

import pytest

from tests.security.fuzz_replies import fuzz


def test_a_few_hundred_spoilt_replies_end_at_their_silo() -> None:
    outcome = fuzz(600, seed=1)
    assert outcome.findings == []
    assert outcome.counts["admitted"] and outcome.counts["MDW-643"] and outcome.counts["MDW-640"]
    assert outcome.counts["MDW-684"] and outcome.counts["MDW-685"] and outcome.counts["MDW-612"]


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_a_hundred_thousand_spoilt_replies_end_at_their_silo_in_bounded_memory_and_time() -> None:
    outcome = fuzz(100_000, seed=0)
    assert outcome.findings == []

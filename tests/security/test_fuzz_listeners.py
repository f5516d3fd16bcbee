"""A hundred thousand strangers' bytes, requests and calls at every port: all end there, unnoticed by the silos."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.security.fuzz_listeners import KINDS, fuzz


def _fuzzed(cases: int, seed: int, folder: Path) -> None:
    folder.chmod(0o700)
    outcome = fuzz(cases, seed, folder)
    assert outcome.findings == [], outcome.said()
    assert {what.partition(":")[0] for what in outcome.counts} == set(KINDS)
    assert sum(outcome.counts.values()) == cases and outcome.beats


def test_some_hundred_strangers_at_every_port_end_there(tmp_path: Path) -> None:
    _fuzzed(300, seed=1, folder=tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_a_hundred_thousand_strangers_at_every_port_end_there_in_bounded_memory_and_time(
    tmp_path: Path,
) -> None:
    _fuzzed(100_000, seed=0, folder=tmp_path)

"""A killed job is started again with longer and longer pauses, per time and not per run."""

from __future__ import annotations

import json

import pytest

from azureml_jobs.backends.restarts import Restarts


def test_pauses_grow_and_end_with_the_restarts() -> None:
    restarts = Restarts(first_pause=1.0, longest_pause=5.0, most=4, window=600.0)
    assert [restarts.pause(float(now)) for now in range(5)] == [1.0, 2.0, 4.0, 5.0, None]
    assert restarts.count == 4


def test_after_a_while_they_begin_anew() -> None:
    restarts = Restarts(first_pause=1.0, most=2, window=100.0)
    assert [restarts.pause(now) for now in (0.0, 60.0, 70.0)] == [1.0, 2.0, None]
    assert restarts.pause(101.0) == 2.0, "the first is long ago, the second is not"
    assert restarts.pause(1000.0) == 1.0
    for day in range(1, 100):
        assert restarts.pause(86400.0 * day) == 1.0, "once a day for ever"


def test_a_rule_lasts_in_a_file() -> None:
    rule = Restarts(2.0, 3.0, 4, 5.0)
    assert Restarts.from_json(json.loads(json.dumps(rule.to_json()))) == rule
    assert Restarts.from_json(None) is None
    with pytest.raises(TypeError):
        Restarts.from_json(3)

"""The metric that a configuration puts first is the headline of that task alone."""

from __future__ import annotations

import pytest

from client.tasks import task_of
from conf.errors import ConfigError
from conf.schema import TableConf

COLUMNS = [{"name": "x", "low": 0.0, "high": 1.0}, {"name": "y", "type": "flag"}]


def test_it_comes_first_in_its_own_task_alone() -> None:
    plain = task_of(TableConf(name="table", label="y", columns=COLUMNS))
    led = task_of(TableConf(name="table", label="y", columns=COLUMNS, headline="auprc"))
    assert next(iter(plain.shown)) == "accuracy"
    assert list(led.shown) == ["auprc", "accuracy", "auroc", "f1", "loss"]


def test_one_that_is_not_shown_is_told_with_those_that_are() -> None:
    with pytest.raises(ConfigError, match="the task shows accuracy, auroc") as caught:
        task_of(TableConf(name="table", label="y", columns=COLUMNS, headline="rmse"))
    assert caught.value.code == "MDW-186"

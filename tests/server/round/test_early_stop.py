"""Early stopping counts rounds without improvement, NaN among them.

A metric that is not there is a mistake.
"""

from __future__ import annotations

import math

import pytest

from conf.errors import ConfigError
from conf.schema import EarlyStopConf
from server.round.early_stop import EarlyStop


def rounds_until_stop(conf: EarlyStopConf, values: list[float]) -> int | None:
    stop = EarlyStop(conf)
    for number, value in enumerate(values, start=1):
        stop.take({conf.metric: value})
        if stop.stopped:
            return number
    return None


def test_a_metric_that_no_round_has_is_an_error_that_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"MDW-107.*acuracy.*Did you mean 'accuracy'"):
        EarlyStop(EarlyStopConf(metric="acuracy", patience=2)).take({"accuracy": 0.5, "loss": 1.0})


@pytest.mark.parametrize(
    ("conf", "values", "stops"),
    [
        (EarlyStopConf(patience=None), [1.0, 2.0, 3.0], None),
        (EarlyStopConf(patience=2), [1.0, 0.9, 0.8, 0.85, 0.9], 5),
        (EarlyStopConf(patience=2), [1.0, 1.1, 0.9, 1.0, 0.8], None),
        (EarlyStopConf(patience=1, min_delta=0.1), [1.0, 0.95], 2),
        (EarlyStopConf(metric="accuracy", mode="max", patience=2), [0.5, 0.6, 0.6, 0.6], 4),
        (EarlyStopConf(patience=2), [1.0, math.nan, math.nan], 3),
    ],
)
def test_stops_after_patience(conf: EarlyStopConf, values: list[float], stops: int | None) -> None:
    assert rounds_until_stop(conf, values) == stops

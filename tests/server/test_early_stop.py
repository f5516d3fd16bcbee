"""Early stopping counts rounds without improvement, NaN and a missing metric among them."""

from __future__ import annotations

import math

import pytest

from conf.schema import EarlyStopConf
from server.early_stop import EarlyStop


def rounds_until_stop(conf: EarlyStopConf, values: list[float | None]) -> int | None:
    stop = EarlyStop(conf)
    for number, value in enumerate(values, start=1):
        if stop.should_stop({} if value is None else {conf.metric: value}):
            return number
    return None


@pytest.mark.parametrize(
    ("conf", "values", "stops"),
    [
        (EarlyStopConf(patience=None), [1.0, 2.0, 3.0], None),
        (EarlyStopConf(patience=2), [1.0, 0.9, 0.8, 0.85, 0.9], 5),
        (EarlyStopConf(patience=2), [1.0, 1.1, 0.9, 1.0, 0.8], None),
        (EarlyStopConf(patience=1, min_delta=0.1), [1.0, 0.95], 2),
        (EarlyStopConf(metric="accuracy", mode="max", patience=2), [0.5, 0.6, 0.6, 0.6], 4),
        (EarlyStopConf(patience=2), [1.0, math.nan, None], 3),
    ],
)
def test_stops_after_patience(conf: EarlyStopConf, values: list[float | None], stops: int | None) -> None:
    assert rounds_until_stop(conf, values) == stops

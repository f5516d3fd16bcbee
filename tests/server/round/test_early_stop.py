"""Early stopping counts rounds without improvement, NaN among them."""

from __future__ import annotations

import math

import pytest

from conf.schema import EarlyStopConf
from server.round.choice import Choice
from server.round.early_stop import EarlyStop

LOSS = Choice("loss", "min")
ACCURACY = Choice("accuracy", "max")


def rounds_until_stop(conf: EarlyStopConf, choice: Choice, values: list[float]) -> int | None:
    stop = EarlyStop(conf, choice)
    for number, value in enumerate(values, start=1):
        stop.take({choice.metric: value})
        if stop.stopped:
            return number
    return None


@pytest.mark.parametrize(
    ("conf", "choice", "values", "stops"),
    [
        (EarlyStopConf(patience=None), LOSS, [1.0, 2.0, 3.0], None),
        (EarlyStopConf(patience=2), LOSS, [1.0, 0.9, 0.8, 0.85, 0.9], 5),
        (EarlyStopConf(patience=2), LOSS, [1.0, 1.1, 0.9, 1.0, 0.8], None),
        (EarlyStopConf(patience=1, min_delta=0.1), LOSS, [1.0, 0.95], 2),
        (EarlyStopConf(patience=2), ACCURACY, [0.5, 0.6, 0.6, 0.6], 4),
        (EarlyStopConf(patience=2), LOSS, [1.0, math.nan, math.nan], 3),
    ],
)
def test_stops_after_patience(
    conf: EarlyStopConf, choice: Choice, values: list[float], stops: int | None
) -> None:
    assert rounds_until_stop(conf, choice, values) == stops

"""What chooses: the task's first metric unless another is named, never one of the test set."""

from __future__ import annotations

import math

import pytest

from client.tasks import task_named
from conf.errors import ConfigError
from conf.schema import EarlyStopConf, RunConf
from server.round.choice import Choice, choice_of

DIGITS = task_named("digits")


def chosen(metric: str | None = None, mode: str = "auto", **run: str) -> Choice | None:
    stop = EarlyStopConf(metric=metric, mode=mode, patience=2)
    return choice_of(RunConf(early_stop=stop, **run), DIGITS)  # type: ignore[arg-type]


def test_nothing_chooses_where_nothing_asks_for_it() -> None:
    assert choice_of(RunConf(), DIGITS) is None
    assert choice_of(RunConf(keep="best"), DIGITS) == Choice("accuracy", "max")


@pytest.mark.parametrize(
    ("metric", "mode", "choice"),
    [
        (None, "auto", Choice("accuracy", "max")),
        ("f1", "auto", Choice("f1", "max")),
        ("loss", "auto", Choice("loss", "min")),
        ("train_loss", "auto", Choice("train_loss", "min")),
        ("loss", "max", Choice("loss", "max")),
        ("recall", "max", Choice("recall", "max")),
    ],
)
def test_the_task_says_which_way_its_metrics_are_better(
    metric: str | None, mode: str, choice: Choice
) -> None:
    assert chosen(metric, mode) == choice


def test_a_metric_of_which_nobody_knows_the_better_way_asks_for_it() -> None:
    with pytest.raises(ConfigError, match=r"MDW-162.*recall.*run\.early_stop\.mode.*accuracy, f1"):
        chosen("recall")


def test_the_test_set_chooses_nothing() -> None:
    with pytest.raises(ConfigError, match=r"MDW-161.*central_accuracy.*such as accuracy"):
        chosen("central_accuracy", "max", test="rounds")


def test_a_metric_that_no_round_has_is_an_error_that_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"MDW-107.*acuracy.*Did you mean 'accuracy'"):
        Choice("acuracy", "max").value({"accuracy": 0.5, "loss": 1.0})


def test_without_an_evaluation_the_error_says_where_to_look() -> None:
    with pytest.raises(ConfigError, match=r"MDW-107.*accuracy.*data\.validation"):
        Choice("accuracy", "max").value({"train_loss": 0.5})


def test_nan_is_never_better_and_an_equal_value_is_not() -> None:
    least = Choice("loss", "min")
    assert least.better(1.0, None)
    assert not least.better(math.nan, None)
    assert not least.better(math.nan, 1.0)
    assert not least.better(1.0, 1.0)
    assert least.better(0.5, 1.0)
    assert not least.better(0.95, 1.0, by=0.1)
    assert Choice("accuracy", "max").better(0.6, 0.5)

"""Numbers to predict: RMSE, MAE and R2 of the union, to nine digits, whatever the partition."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

from client import loop, sums
from client.dry_round import dry_round
from client.models import build_model
from client.tasks.base import Contract
from client.tasks.kinds.arrays import Arrays
from client.tasks.kinds.regression import Regression
from conf.errors import DataError
from conf.schema import DataConf, MlpConf, Silo, TrainerConf
from tests.client.tasks.kinds.unions import federated


class Two(Regression):
    """Two numbers."""

    name = "two"
    contract = Contract((2,), targets=("height", "weight"))

    def read(self, root: Path) -> Arrays:
        raise NotImplementedError


class Years(Two):
    name = "years"
    contract = Contract((2,), targets=("year", "month"))
    ranges = ((1990.1, 2030.1), (0, 12))


def metrics_and_truth(
    task: Regression, truth: np.ndarray, rng: np.random.Generator
) -> tuple[dict[str, float], dict[str, float]]:
    truth = truth.astype(np.float32)
    # As the page says: beyond that R2 loses digits.
    distance = np.abs(truth.mean(0, np.float64) - task._middle().numpy())
    assume((distance <= 1000 * truth.std(0, dtype=np.float64)).all())
    guesses = truth + rng.normal(size=truth.shape).astype(np.float32)
    rows = [(np.zeros(2, np.float32), row) for row in truth]
    found = federated(task, list(torch.from_numpy(guesses)), rows, rng)
    wide = truth.astype(np.float64)
    wide_guesses = guesses.astype(np.float64)
    return found, {
        "rmse": root_mean_squared_error(wide, wide_guesses),
        "mae": mean_absolute_error(wide, wide_guesses),
        "r2": r2_score(wide, wide_guesses),
    }


@settings(deadline=None)
@given(st.integers(2, 80), st.floats(-1000, 1000), st.integers(0, 2**32 - 1))
def test_the_union_s_metrics_are_scikit_learns_to_nine_digits(
    count: int, mean: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    found, true = metrics_and_truth(Two(), mean + rng.normal(size=(count, 2)), rng)
    for name in ("rmse", "mae", "r2"):
        assert found[name] == pytest.approx(true[name], rel=1e-9, abs=1e-9)


@settings(deadline=None)
@given(st.integers(2, 80), st.integers(0, 2**32 - 1))
def test_a_known_range_keeps_r2_exact_far_from_zero(count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = np.stack([rng.uniform(1990.1, 2030.1, count), rng.uniform(0, 12, count)], axis=1)
    found, true = metrics_and_truth(Years(), values, rng)
    assert found["r2"] == pytest.approx(true["r2"], rel=1e-9)


def test_values_that_do_not_vary_have_no_r2() -> None:
    same = [(np.zeros(2, np.float32), np.full(2, 0.3, np.float32))] * 9
    found = federated(Two(), list(torch.zeros(9, 2)), same, np.random.default_rng(0))
    assert math.isnan(found["r2"]) and found["rmse"] > 0


def test_sums_of_nothing_are_undefined() -> None:
    nothing = {name: torch.zeros(spec.shape) for name, spec in Two().sum_specs().items()}
    assert all(math.isnan(value) for value in Two().metrics(nothing).values())


@pytest.mark.parametrize("shape", [(4, 3), (2, 4), (4,), (4, 2, 1)])
def test_an_output_of_another_shape_is_refused_and_not_broadcast(shape: tuple[int, ...]) -> None:
    batch = (torch.zeros(4, 2), torch.zeros(4, 2))
    with pytest.raises(DataError, match="MDW-213: The task two: the model gives"):
        Two().loss(torch.zeros(shape), batch)


def test_one_target_may_be_given_without_a_column() -> None:
    class One(Two):
        contract = Contract((2,), targets=("price",))

    batch = (torch.zeros(4, 2), torch.ones(4, 1))
    assert float(One().loss(torch.zeros(4), batch)) == 1
    _, targets = One().checked((np.zeros((4, 2)), np.arange(4)), "x")
    assert targets.shape == (4, 1) and targets.dtype == np.float32


@pytest.mark.parametrize(
    ("targets", "says"),
    [
        (np.zeros((4, 3)), "not 2 numbers each"),
        (np.full((4, 2), np.nan), "not finite"),
        (np.full((4, 2), 3000.0), "not all in the task's ranges"),
        (np.full((4, 2), "a"), "not 2 numbers each"),
    ],
)
def test_targets_that_are_not_the_contract_s_are_refused(targets: np.ndarray, says: str) -> None:
    with pytest.raises(DataError, match=f"MDW-202: x .*{says}"):
        Years().checked((np.zeros((4, 2)), targets), "x")


def test_a_regression_is_learnt_from_a_file(tmp_path: Path) -> None:
    class Line(Two):
        contract = Contract((2,), targets=("sum",))

        def read(self, root: Path) -> Arrays:
            rows = np.loadtxt(root, delimiter=",")
            return rows[:, :2], rows[:, 2]

    x = np.random.default_rng(0).uniform(-1, 1, (200, 2))
    np.savetxt(tmp_path / "line.csv", np.column_stack([x, x.sum(1)]), delimiter=",")
    task = Line()
    data = task.data(
        Silo("north", 0, 2, DataConf(root=str(tmp_path / "line.csv"), partition="iid"))
    )
    trainer = TrainerConf(epochs=20, lr=0.1)
    model = loop.prepare(build_model(MlpConf(hidden=[]), task, 0), trainer)
    loop.train(model, data.train, task, trainer, seed=0)
    metrics = sums.metrics_of(task, loop.evaluate(model, data.validation, task, trainer).sums)
    assert metrics["r2"] > 0.99


def test_examples_made_up_from_the_contract_pass_a_dry_round() -> None:
    task = Years()
    dry_round(build_model(MlpConf(), task, 0), task.made_up(), task, TrainerConf(device="cpu"))

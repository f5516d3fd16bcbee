"""What an owner withholds of an evaluation stays at the silo, in the sums and in all that is made of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import TensorDataset

from client.loop import Evaluation
from client.sums import of_batch
from client.tasks import task_named, task_of
from client.tasks.base import Data, SumSpec, Task
from client.withholding import nothing_told, statistics_told, told, without_small_counts
from conf.schema import PolicyConf, TableConf
from strategies.wire import protocol

DIGITS = task_named("digits")


def evaluation(examples: int) -> Evaluation:
    """Half of the examples are 0, half are 1; all but one are guessed right."""
    labels = torch.arange(examples) % 2
    logits = torch.eye(10)[labels]
    logits[0] = torch.eye(10)[5]
    sums = of_batch(DIGITS, logits, (torch.zeros(examples, 1, 8, 8), labels))
    return Evaluation(sums, examples, 0.5)


def test_without_a_policy_all_is_told() -> None:
    one = evaluation(20)
    said = told(one, DIGITS, PolicyConf())
    assert all(torch.equal(said.sums[name], value) for name, value in one.sums.items())
    assert said.metrics["accuracy"] == 0.95 and protocol.WITHHELD not in said.metrics
    assert said.metrics[protocol.NUM_EXAMPLES] == 20


def test_a_split_below_the_threshold_is_answered_as_an_empty_one() -> None:
    empty = told(Evaluation({}, 0, 0.0), DIGITS, PolicyConf())
    assert told(evaluation(20), DIGITS, PolicyConf(evaluated_examples_at_least=21)) == empty
    assert told(evaluation(20), DIGITS, PolicyConf(evaluated_examples_at_least=20)).sums


def test_fewer_examples_than_a_cell_may_have_are_answered_as_none() -> None:
    assert told(evaluation(4), DIGITS, PolicyConf(cells_at_least=5)).metrics == {
        protocol.NUM_EXAMPLES: 0
    }


def test_a_split_whose_loss_is_a_mean_over_nothing_is_answered_as_an_empty_one() -> None:
    nothing = {
        "loss": torch.zeros((), dtype=torch.float64),
        "size": torch.tensor(0),
        "confusion": torch.zeros(10, 10, dtype=torch.int64),
    }
    assert told(Evaluation(nothing, 3, 0.1), DIGITS, PolicyConf()).metrics == {
        protocol.NUM_EXAMPLES: 0
    }


def test_small_counts_are_withheld_and_the_answer_says_so() -> None:
    one = evaluation(20)
    said = told(one, DIGITS, PolicyConf(cells_at_least=3))
    confusion = said.sums["confusion"]
    assert said.metrics[protocol.WITHHELD] == 1
    # The one wrong guess, and with it one of the others: 1 is what 19 lack of 20.
    assert int(confusion[0, 5]) == 0 and int(confusion.sum()) == 10
    assert said.metrics["accuracy"] == 1
    assert said.sums["size"] == one.sums["size"] and said.sums["loss"] == one.sums["loss"]
    assert int(one.sums["confusion"][0, 5]) == 1


def test_where_nothing_is_small_nothing_is_said_to_be_withheld() -> None:
    said = told(evaluation(20), DIGITS, PolicyConf(cells_at_least=2))
    assert protocol.WITHHELD in said.metrics
    labels = torch.arange(20) % 2
    sums = of_batch(DIGITS, torch.eye(10)[labels], (torch.zeros(20, 1, 8, 8), labels))
    said = told(Evaluation(sums, 20, 0.5), DIGITS, PolicyConf(cells_at_least=10))
    assert protocol.WITHHELD not in said.metrics


def test_where_all_is_withheld_metrics_are_undefined() -> None:
    labels = torch.arange(10)
    sums = of_batch(DIGITS, torch.eye(10), (torch.zeros(10, 1, 8, 8), labels))
    said = told(Evaluation(sums, 10, 0.5), DIGITS, PolicyConf(cells_at_least=2))
    assert math.isnan(said.metrics["accuracy"]) and said.metrics["loss"] > 0


@given(st.lists(st.integers(0, 12), min_size=1, max_size=40), st.integers(2, 10))
def test_no_count_below_the_least_is_told_or_can_be_had_from_the_total(
    counts: list[int], least: int
) -> None:
    given_counts = torch.tensor(counts)
    sent = without_small_counts(given_counts, least)
    assert all(value == 0 or value >= least for value in sent.tolist())
    assert all(value in (0, count) for value, count in zip(sent.tolist(), counts, strict=True))
    missing = sum(counts) - int(sent.sum())
    if missing:
        assert missing >= least or not sent.any()
    else:
        assert all(count == 0 or count >= least for count in counts)


@pytest.mark.parametrize("shape", [(), (2, 3), (2, 3, 4)])
def test_counts_keep_their_shape(shape: tuple[int, ...]) -> None:
    assert without_small_counts(torch.ones(shape, dtype=torch.int64), 5).shape == shape


def test_a_metric_leaves_only_where_the_split_has_as_many_examples_as_it_needs() -> None:
    policy = PolicyConf(metrics_at_least={"f1": 21, "loss": 5})
    said = told(evaluation(20), DIGITS, policy)
    # Accuracy and F1 are made of the same counts: one can't stay without the other.
    assert math.isnan(said.metrics["f1"]) and math.isnan(said.metrics["accuracy"])
    assert int(said.sums["confusion"].sum()) == 0 and said.metrics["loss"] > 0
    assert said.metrics["withheld:f1"] == said.metrics["withheld:accuracy"] == 1
    assert said.metrics[protocol.WITHHELD] == 1
    whole = told(evaluation(21), DIGITS, policy)
    assert protocol.WITHHELD not in whole.metrics and whole.metrics["accuracy"] > 0.9


def test_without_the_examples_of_its_loss_an_answer_tells_nothing() -> None:
    policy = PolicyConf(metrics_at_least={"loss": 21})
    assert told(evaluation(20), DIGITS, policy) == nothing_told()
    assert told(evaluation(21), DIGITS, PolicyConf(metrics_at_least={"loss": 21})).sums


def test_a_policy_of_version_2_lets_no_metric_out_that_it_does_not_name() -> None:
    policy = PolicyConf(version=2, metrics_at_least={"loss": 5})
    said = told(evaluation(20), DIGITS, policy)
    assert int(said.sums["confusion"].sum()) == 0 and "withheld:accuracy" in said.metrics
    policy = PolicyConf(version=2, metrics_at_least={"loss": 5, "accuracy": 5, "f1": 5})
    assert protocol.WITHHELD not in told(evaluation(20), DIGITS, policy).metrics


class Shares(type(DIGITS)):  # type: ignore[misc]
    """Metrics of its own, of which one is a share of the size, which every answer tells."""

    of_size = True

    def sums(self, output: Any, batch: Any) -> Mapping[str, Tensor]:
        right = (output.argmax(1) == batch[1]).sum()
        return {"right": right, "guesses": torch.tensor(len(batch[1])), "other": right}

    def sum_specs(self) -> Mapping[str, SumSpec]:
        return dict.fromkeys(("right", "guesses", "other"), SumSpec())

    def metrics(self, sums: Mapping[str, Tensor]) -> Mapping[str, float]:
        count = sums["size"] if self.of_size else sums["guesses"]
        return {"accuracy": int(sums["right"]) / int(count), "other": float(sums["other"])}


def shares(of_size: bool) -> tuple[Task, Evaluation]:
    task = Shares.__new__(Shares)
    task.of_size = of_size
    labels = torch.arange(20) % 2
    made = of_batch(task, torch.eye(10)[labels], (torch.zeros(20, 1, 8, 8), labels))
    return task, Evaluation(made, 20, 0.5)


def test_a_metric_that_is_a_share_of_the_size_is_not_made_too_low() -> None:
    task, one = shares(of_size=True)
    assert told(one, task, PolicyConf(metrics_at_least={"accuracy": 21})) == nothing_told()


def test_a_task_that_does_not_say_of_which_sums_its_metrics_are_made_withholds_all() -> None:
    task, one = shares(of_size=False)
    said = told(one, task, PolicyConf(metrics_at_least={"other": 21}))
    assert [int(said.sums[n]) for n in ("right", "guesses", "other")] == [0, 0, 0]
    assert math.isnan(said.metrics["accuracy"]) and math.isnan(said.metrics["other"])


# ---- before the first round

ROWS = {
    "rare": [0.5, *[float("nan")] * 19],
    "usual": [0.1 * n for n in range(20)],
}


def told_of_rows(policy: PolicyConf, rows: int = 20) -> dict[str, Tensor]:
    columns = [{"name": name, "low": 0, "high": 2, "missing": "typical"} for name in ROWS]
    task = task_of(TableConf(label="y", columns=[*columns, {"name": "y", "type": "flag"}]))
    inputs = torch.tensor([ROWS["rare"], ROWS["usual"]]).T[:rows]
    labels = torch.arange(rows) % 2
    train = TensorDataset(inputs, labels)
    return statistics_told(task, Data(train, train, train, labels.numpy()), policy)


def test_what_a_few_values_add_up_to_is_withheld_with_their_count() -> None:
    told_all = told_of_rows(PolicyConf())
    assert told_all["present"].tolist() == [1, 20]
    assert told_all["total"][0] != 0

    kept = told_of_rows(PolicyConf(cells_at_least=5))
    assert int(kept["present"][0]) == 0
    assert float(kept["total"][0]) == float(kept["squares"][0]) == 0


def test_a_training_split_below_a_threshold_tells_no_statistics() -> None:
    assert told_of_rows(PolicyConf(cells_at_least=5), rows=4) == {}
    assert told_of_rows(PolicyConf(evaluated_examples_at_least=21)) == {}
    assert told_of_rows(PolicyConf(reveal_counts=False)) == {}

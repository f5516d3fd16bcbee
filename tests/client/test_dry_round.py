"""A dry round says in the task's own words what is wrong with it, and changes nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset, TensorDataset

from client.dry_round import EXAMPLES, dry_round
from client.tasks.base import Better, SumSpec, Task
from conf.errors import DataError
from conf.schema import Silo, TrainerConf

CONF = TrainerConf(device="cpu")
ROWS = TensorDataset(torch.randn(9, 3), torch.arange(9) % 2)


class Rows(Task):
    """Two classes from three numbers; each method may be replaced by a test."""

    name = "rows"

    def data(self, silo: Silo) -> Any:
        raise NotImplementedError

    def loss(self, output: Any, batch: Any) -> Tensor:
        return functional.cross_entropy(output, batch[1])

    def sums(self, output: Any, batch: Any) -> Mapping[str, Tensor]:
        return {"right": (output.argmax(1) == batch[1]).sum()}

    def sum_specs(self) -> Mapping[str, SumSpec]:
        return {"right": SumSpec()}

    def metrics(self, sums: Mapping[str, Tensor]) -> Mapping[str, float]:
        return {"accuracy": int(sums["right"]) / int(sums["size"])}


def raising(*given: Any) -> Any:
    """Raise what a mistake in a method raises."""
    raise KeyError("patient 4711")


def with_method(name: str, method: Callable[..., Any]) -> Rows:
    task = Rows()
    setattr(task, name, method)
    return task


def refusal(task: Task, *, discreet: bool = False, data: Dataset[Any] = ROWS) -> DataError:
    with pytest.raises(DataError) as caught:
        dry_round(nn.Linear(3, 2), data, task, CONF, discreet=discreet)
    return caught.value


@pytest.mark.parametrize("method", ["collate", "output", "loss", "size", "sums", "metrics"])
def test_a_method_that_raises_is_named_with_its_file_and_line(method: str) -> None:
    error = refusal(with_method(method, raising))
    assert error.code == "MDW-236"
    assert f"`{method}` raised KeyError: 'patient 4711' (test_dry_round.py, line " in error.message


def test_a_discreet_one_tells_nothing_of_an_example() -> None:
    error = refusal(with_method("loss", raising), discreet=True)
    assert "`loss` raised KeyError (test_dry_round.py" in error.message
    assert "4711" not in str(error)


@pytest.mark.parametrize(
    ("method", "given", "code", "says"),
    [
        ("size", 2.0, "MDW-237", "`size` is a float"),
        ("size", torch.tensor(3), "MDW-237", "`size` is a Tensor"),
        ("size", -1, "MDW-237", "`size` is a int, -1"),
        ("loss", 0.5, "MDW-238", "`loss` is a float"),
        ("loss", torch.ones(4), "MDW-238", r"`loss` has the shape (4,)"),
        ("loss", torch.tensor(math.nan), "MDW-238", "`loss` is not finite"),
        ("loss", torch.tensor(1.0), "MDW-238", "`loss` has no gradient"),
        (
            "loss",
            torch.ones((), requires_grad=True),
            "MDW-238",
            "`loss` depends on no weight",
        ),
        ("sums", {}, "MDW-208", "'right' is in `sums` or in `sum_specs`"),
        ("metrics", {"accuracy": "good"}, "MDW-209", "'accuracy' is 'good'"),
    ],
)
def test_what_a_method_gives_is_checked_by_name_and_kind(
    method: str, given: object, code: str, says: str
) -> None:
    error = refusal(with_method(method, lambda *_: given))
    assert error.code == code
    assert says in error.message


def test_a_metric_that_is_shown_and_not_there_is_named() -> None:
    class Misspelt(Rows):
        shown: ClassVar[Mapping[str, Better]] = {"acuracy": "max"}

    error = refusal(Misspelt())
    assert error.code == "MDW-215" and "shows 'acuracy'" in error.message


def test_a_good_task_is_let_in_and_neither_weights_nor_random_numbers_change() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(), nn.Linear(4, 2))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    drawn = torch.random.get_rng_state()
    dry_round(model, ROWS, Rows(), CONF)
    assert torch.equal(torch.random.get_rng_state(), drawn)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
    assert all(weight.grad is None for weight in model.parameters())


def test_it_looks_at_a_few_examples_and_at_no_others() -> None:
    class Rare(Dataset[Any]):
        def __len__(self) -> int:
            return 10**9

        def __getitem__(self, index: int) -> Any:
            assert index < EXAMPLES
            return torch.ones(3), 1

    dry_round(nn.Linear(3, 2), Rare(), Rows(), CONF)


def test_examples_of_which_there_are_none_are_not_looked_at() -> None:
    dry_round(nn.Linear(3, 2), TensorDataset(torch.ones(0, 3)), with_method("loss", raising), CONF)

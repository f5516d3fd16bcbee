"""A model whose state can't be federated is refused by the name of the entry."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from client.model_state import check_state
from conf.errors import DataError


class Holding(nn.Module):
    """A linear layer with one more buffer."""

    def __init__(self, buffer: Tensor) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.register_buffer("held", buffer)


class Extra(nn.Linear):
    """A layer with extra state."""

    def __init__(self, extra: object) -> None:
        super().__init__(2, 2)
        self.extra = extra

    def get_extra_state(self) -> Any:
        return self.extra

    def set_extra_state(self, state: Any) -> None:
        self.extra = state


class Doubling(nn.Linear):
    """A layer whose weights double when they are loaded."""

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *others: Any) -> None:
        state_dict[prefix + "weight"] = state_dict[prefix + "weight"] * 2
        super()._load_from_state_dict(state_dict, prefix, *others)


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.second = nn.Linear(3, 3)
        self.second.weight = self.first.weight


@pytest.mark.parametrize(
    ("model", "code", "says"),
    [
        (Extra({"steps": 3}), "MDW-230", "'_extra_state' is a dict"),
        (nn.LazyLinear(3), "MDW-231", "'weight' has no shape"),
        (Holding(torch.eye(3).to_sparse()), "MDW-232", "'held' is torch.sparse_coo"),
        (Holding(torch.empty(2, device="meta")), "MDW-232", "'held' is torch.strided on meta"),
        (Holding(torch.ones(2, dtype=torch.complex64)), "MDW-232", "'held' is torch.complex64"),
        (Holding(torch.ones(1).expand(4)), "MDW-233", "'held' is an expanded tensor"),
        (Holding(torch.tensor([0.0, -math.inf])), "MDW-234", "'held' holds values that are not"),
        (Doubling(2, 2), "MDW-235", "'weight' has other values"),
    ],
)
def test_an_entry_that_can_not_be_federated_is_named(
    model: nn.Module, code: str, says: str
) -> None:
    with pytest.raises(DataError, match=says) as caught:
        check_state(model)
    assert caught.value.code == code


def test_a_state_that_can_not_be_loaded_again_is_said() -> None:
    class Refusing(nn.Linear):
        def _load_from_state_dict(self, *others: Any) -> None:
            raise RuntimeError("not today\nmore lines")

    with pytest.raises(DataError, match="RuntimeError: not today") as caught:
        check_state(Refusing(1, 1))
    assert caught.value.code == "MDW-235"


@pytest.mark.parametrize(
    "model",
    [
        nn.Linear(2, 2),
        nn.BatchNorm2d(3),
        Tied(),
        Extra(torch.ones(2)),
        nn.Linear(2, 2).bfloat16(),
        Holding(torch.tensor([True, False])),
        Holding(torch.ones(3, 4).t()),
        Holding(torch.ones(1, 1).expand(1, 1)),
        nn.LSTM(2, 3),
    ],
    ids=lambda model: type(model).__name__,
)
def test_what_can_be_federated_is_let_in_and_left_as_it_was(model: nn.Module) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    check_state(model)
    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())

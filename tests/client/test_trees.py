"""Whatever a task nests its tensors in, its shape stays and each tensor is met once, in order."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from client.trees import map_tensors, tensors_of


class Point(NamedTuple):
    x: Tensor
    name: str


class Output(dict[str, Tensor]):
    """As model libraries give: a dict whose constructor takes no mapping."""

    def __init__(self, *, logits: Tensor) -> None:
        super().__init__(logits=logits)


def number(value: int) -> Tensor:
    return torch.tensor(value)


def test_each_tensor_is_replaced_and_everything_else_stays_as_it_is() -> None:
    tree = {"a": number(1), "b": [number(2), "text"], "c": (number(3), None, {"d": number(4)})}
    doubled = map_tensors(lambda tensor: 2 * tensor, tree)
    assert doubled == {
        "a": number(2),
        "b": [number(4), "text"],
        "c": (number(6), None, {"d": number(8)}),
    }
    assert type(doubled["b"]) is list and type(doubled["c"]) is tuple
    assert tree["a"] == 1


def test_a_named_tuple_keeps_its_names() -> None:
    made = map_tensors(lambda tensor: tensor + 1, Point(number(1), "north"))
    assert type(made) is Point and made == Point(number(2), "north")


def test_a_dict_with_a_constructor_of_its_own_becomes_a_plain_one() -> None:
    made = map_tensors(lambda tensor: tensor + 1, Output(logits=number(1)))
    assert type(made) is dict and made == {"logits": number(2)}


def test_the_tensors_come_in_the_order_of_the_tree() -> None:
    tree = ({"z": number(1), "a": [number(2)]}, "text", Point(number(3), "x"), 7, number(4))
    assert [int(tensor) for tensor in tensors_of(tree)] == [1, 2, 3, 4]
    assert list(tensors_of("text")) == []

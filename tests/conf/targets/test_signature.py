"""Plain arguments are held to a typed signature before anything is called."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import pytest

from conf.errors import ConfigError
from conf.targets.signature import call, check, fits


class Wine:
    def __init__(self, hidden: int, rate: float = 0.1, kind: Literal["a", "b"] = "a") -> None:
        if hidden < 0:
            raise ValueError("hidden is negative")
        self.hidden = hidden


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        ({"hiden": 3}, "MDW-173", "Did you mean 'hidden'?"),
        ({}, "MDW-174", "task.args.hidden=VALUE"),
        ({"hidden": "many"}, "MDW-175", "takes int"),
        ({"hidden": True}, "MDW-175", "takes int"),
        ({"hidden": 1.5}, "MDW-175", "takes int"),
        ({"hidden": 1, "kind": "c"}, "MDW-175", "Literal"),
        ({"hidden": -1}, "MDW-176", "hidden is negative"),
    ],
)
def test_what_is_wrong_is_said_with_its_key(args: dict[str, Any], code: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        call(Wine, args, "task.args")
    assert caught.value.code == code and says in str(caught.value)
    assert "task.args" in str(caught.value)


def test_a_given_argument_is_added_where_there_is_one_and_a_written_one_wins() -> None:
    def net(width: int, contract: object = None) -> tuple[int, object]:
        return width, contract

    assert call(net, {"width": 2}, "model.args", {"contract": "c", "other": 1}) == (2, "c")
    assert call(net, {"width": 2, "contract": "own"}, "model.args", {"contract": "c"})[1] == "own"


def test_a_constructor_that_takes_anything_is_left_alone() -> None:
    def anything(**options: Any) -> dict[str, Any]:
        return options

    assert call(anything, {"x": [1]}, "model.args") == {"x": [1]}
    check(dict, {"x": 1}, "model.args")


@pytest.mark.parametrize(
    ("value", "hint", "may"),
    [
        ([1, 2], list[int], True),
        ([1, "2"], list[int], False),
        ([1, 2], tuple[int, ...], True),
        ([1, 2], tuple[int, int], True),
        ([1, 2, 3], tuple[int, int], False),
        ([1], Sequence[float], True),
        (1, Sequence[float], False),
        ({"a": 1}, Mapping[str, int], True),
        ([], dict[str, int], False),
        (None, int | None, True),
        (None, int, False),
        ("x", int | str, True),
        (1.0, int | str, False),
        ("f", Callable[[], int], False),
        ("x", object(), True),
    ],
)
def test_a_plain_value_fits_what_a_hint_asks_for(value: object, hint: Any, may: bool) -> None:
    assert fits(value, hint) is may

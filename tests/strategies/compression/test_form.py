"""Which of a model's arrays travel in which form, and that both sides know the same."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from conf.compose import compose
from conf.schema import RUN_SCOPE, RunScope
from strategies.compression.form import Form, form_of

SHAPES = {
    "b.running_var": ("float32", (2,)),
    "b.weight": ("float64", (2,)),
    "a.weight": ("float32", (3, 2)),
    "a.steps": ("int64", ()),
    "frozen": ("float32", (9,)),
}
TRAINED = ["a.weight", "b.weight", "a.steps", "head.weight"]


def scope(*overrides: str) -> RunScope:
    conf = compose(["task=digits", *overrides])
    return RunScope(**{name: getattr(conf, name) for name in RUN_SCOPE})


def form(*overrides: str) -> Form:
    made = form_of(scope(*(overrides or ("compression=int8",))), TRAINED, ["frozen"], ["head"])
    assert made is not None
    return made


def test_parameters_of_floats_are_coded_and_nothing_else() -> None:
    assert form().coded(SHAPES) == {"a.weight": (3, 2), "b.weight": (2,)}
    assert form("compression=none").coded(SHAPES) == {}


def test_without_compression_and_frozen_weights_updates_travel_as_they_are() -> None:
    assert form_of(scope(), TRAINED, [], []) is None
    assert form_of(scope(), TRAINED, ["frozen"], []) is not None
    assert form_of(scope("compression=topk"), TRAINED, [], []) is not None


def test_what_a_silo_keeps_is_no_part_of_an_update() -> None:
    assert form().leaving(["head.weight", "header", "a.weight"]) == ["header", "a.weight"]


def test_a_silo_draws_for_itself_and_all_of_a_round_together() -> None:
    one, other = form().seeds("north", 3), form().seeds("south", 3)
    assert one.own != other.own and one.shared == other.shared == form().shared(3)
    assert form().shared(4) != one.shared
    assert replace(form(), seed=9).seeds("north", 3).own != one.own


def test_what_is_decoded_is_the_model_that_was_sent_and_the_change() -> None:
    rng = np.random.default_rng(0)
    sent: dict[str, NDArray[Any]] = {
        "a.weight": rng.normal(size=(3, 2)).astype(np.float32),
        "b.weight": rng.normal(size=2),
    }
    new = {name: values + 0.01 for name, values in sent.items()}
    made = form("compression=bf16")
    coded = made.coded(SHAPES)
    encoded = made.encoded(new, sent, coded, made.seeds("north", 1), {})
    for name, values in made.decoded(encoded.arrays, sent, coded, 1):
        assert values.dtype == sent[name].dtype
        np.testing.assert_allclose(values, new[name].reshape(-1), atol=1e-4)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_a_change_that_is_not_finite_is_not_encoded(wrong: float) -> None:
    sent = {"a.weight": np.zeros((3, 2), np.float32), "b.weight": np.zeros(2)}
    new = {**sent, "b.weight": np.array([0.0, wrong])}
    made = form()
    with pytest.raises(ValueError, match="not finite"):
        made.encoded(new, sent, made.coded(SHAPES), made.seeds("north", 1), {})


def test_a_change_of_doubles_beyond_float32_is_not_encoded() -> None:
    sent = {"a.weight": np.zeros((3, 2), np.float32), "b.weight": np.zeros(2)}
    new = {**sent, "b.weight": np.array([0.0, 1e300])}
    made = form()
    with pytest.raises(ValueError, match="not finite"):
        made.encoded(new, sent, made.coded(SHAPES), made.seeds("north", 1), {})

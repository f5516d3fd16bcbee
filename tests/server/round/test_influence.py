"""What each silo is of a round: its share, the length of its change, its direction, and who owns it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from server.round.influence import Influence, median_norm
from server.round.judgement import Admitted
from server.round.sketch import Sketcher
from server.run.movement import moved_by, owner_of

SKETCHER = Sketcher(0)


def update(change: list[float], weight: int = 10) -> Admitted:
    values = np.array(change)
    pen = SKETCHER.begin()
    pen.add(values)
    norm = math.sqrt(float((values * values).sum()))
    return Admitted(weight, norm, weight=weight, sketch=pen.drawn())


def of(**updates: Admitted) -> Influence:
    influence = Influence()
    for silo, verdict in updates.items():
        influence.add(silo, verdict)
    return influence


def test_shares_add_up_and_cosines_are_those_to_the_mean_change() -> None:
    found = of(a=update([1.0, 0.0]), b=update([0.0, 1.0], 30)).metrics()
    assert [found[silo]["update-share"] for silo in "ab"] == [0.25, 0.75]
    assert found["a"]["update-cosine"] == pytest.approx(1 / math.sqrt(10), abs=1e-6)
    assert found["b"]["update-cosine"] == pytest.approx(3 / math.sqrt(10), abs=1e-6)


def test_the_order_of_arrival_changes_no_bit() -> None:
    updates = {silo: update([at * 0.1, 1.0, -at]) for at, silo in enumerate("abcdef")}
    turned = dict(reversed(updates.items()))
    one = of(**updates).metrics()
    other = of(**turned).metrics()
    assert all(one[silo] == other[silo] for silo in updates)


def test_a_rule_s_own_shares_take_the_place_of_weights() -> None:
    influence = of(a=update([1.0, 0.0]), b=update([0.0, 1.0], 30), c=update([5.0, 0.0]))
    found = influence.metrics({"a": 0.5, "b": 0.5, "c": 0.0})
    assert [found[silo]["update-share"] for silo in "abc"] == [0.5, 0.5, 0.0]
    assert found["a"]["update-cosine"] == pytest.approx(1 / math.sqrt(2), abs=1e-6)
    assert moved_by(found) == {"a": 0.5, "b": 0.5}


def test_a_silo_that_moves_the_model_alone_owns_it() -> None:
    found = of(a=update([0.4]), b=update([-4e5]), c=update([0.4])).metrics()
    assert owner_of(found) == "b"
    assert moved_by(found)["b"] > 0.99
    even = of(a=update([0.4]), b=update([0.5]), c=update([0.4])).metrics()
    assert owner_of(even) is None


def test_the_larger_of_two_silos_owns_nothing() -> None:
    assert owner_of(of(a=update([0.4]), b=update([-4e5])).metrics()) is None


@pytest.mark.parametrize("norm", [math.inf, 0.0])
def test_a_norm_that_is_no_length_has_no_share_of_the_movement(norm: float) -> None:
    wild = Admitted(10, norm, weight=10, sketch=SKETCHER.begin().drawn())
    found = of(a=update([0.4]), b=wild, c=update([0.4]), d=update([0.4])).metrics()
    assert moved_by(found).get("b", 0.0) == 0.0
    assert owner_of(found) is None


def test_an_update_that_was_refused_after_all_is_not_counted() -> None:
    influence = of(a=update([1.0]), b=update([5.0]))
    influence.remove("b")
    assert influence.metrics() == {
        "a": {"update-norm": 1.0, "update-share": 1.0, "update-cosine": pytest.approx(1.0)}
    }


def test_masked_updates_have_none_of_these() -> None:
    """Under secure aggregation the server knows no update's norm."""
    assert of(a=Admitted(10, weight=10), b=Admitted(10, weight=10)).metrics() == {}


def test_the_median_is_of_the_norms_that_are_known() -> None:
    found = of(a=update([1.0]), b=update([5.0]), c=update([2.0]))
    assert median_norm(found.metrics()) == 2.0
    assert median_norm({}) is None
    assert median_norm({"a": {"update-norm": math.inf}}) is None

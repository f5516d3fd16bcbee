"""A silo's examples in three splits: the shares, small sets, and what stays when a share changes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.splits import Splits, split
from conf.schema import DataConf, Silo
from conf.seeds import seed_for


def splits(n: int, name: str = "north", **data: float) -> Splits:
    return split(np.arange(100, 100 + n), Silo(name, data=DataConf(**data)))  # type: ignore[arg-type]


def sizes(one: Splits) -> tuple[int, int, int]:
    return len(one.train), len(one.validation), len(one.test)


@settings(deadline=None)
@given(
    st.integers(1, 300),
    st.floats(0, 0.9),
    st.floats(0, 0.9),
    st.text(min_size=1),
    st.integers(0, 99),
)
def test_splits_are_complete_sorted_and_always_leave_something_to_train_on(
    n: int, validation: float, test: float, name: str, seed: int
) -> None:
    one = splits(n, name, validation=validation, test=test, seed=seed)
    whole = np.concatenate([one.train, one.validation, one.test])
    assert np.array_equal(np.sort(whole), np.arange(100, 100 + n))
    for part in (one.train, one.validation, one.test):
        assert np.array_equal(part, np.sort(part))
    assert len(one.train) >= 1


@settings(deadline=None)
@given(st.integers(1, 2000), st.floats(0, 0.45), st.floats(0, 0.45))
def test_each_share_is_right_to_an_example(n: int, validation: float, test: float) -> None:
    one = splits(n, validation=validation, test=test)
    assert abs(len(one.validation) - validation * n) <= 1.01
    assert abs(len(one.test) - test * n) <= 1.01


@pytest.mark.parametrize("n", range(1, 120))
def test_with_the_default_shares_a_fifth_is_held_out_by_the_silo_s_own_draw(n: int) -> None:
    mine = np.arange(n)
    order = np.random.default_rng(seed_for(0, "north", 0, "held-out")).permutation(mine)
    fifth = int(0.2 * n + 0.5)
    one = split(mine, Silo("north"))
    assert np.array_equal(one.train, np.sort(order[fifth:]))
    held_out = np.concatenate([one.validation, one.test])
    assert np.array_equal(np.sort(held_out), np.sort(order[:fifth]))


def test_of_few_examples_the_first_one_held_out_is_for_the_test() -> None:
    by_count = {n: sizes(splits(n)) for n in (1, 2, 3, 5, 8, 10, 13)}
    assert by_count == {
        1: (1, 0, 0),
        2: (2, 0, 0),
        3: (2, 0, 1),
        5: (4, 0, 1),
        8: (6, 1, 1),
        10: (8, 1, 1),
        13: (10, 2, 1),
    }


@pytest.mark.parametrize("n", [1, 2, 3])
def test_of_a_few_examples_one_is_left_to_train_on_whatever_the_shares(n: int) -> None:
    assert sizes(splits(n, validation=0.45, test=0.45))[0] == 1


def test_a_share_that_is_given_alone_leaves_the_other_at_its_default() -> None:
    assert sizes(splits(100, test=0.3)) == (60, 10, 30)
    assert sizes(splits(100, validation=0.3)) == (60, 30, 10)
    assert sizes(splits(100, validation=0)) == (90, 0, 10)
    assert sizes(splits(100, test=0)) == (90, 10, 0)
    assert sizes(splits(100, validation=0, test=0)) == (100, 0, 0)


def test_another_share_of_validation_leaves_the_test_examples_as_they_are() -> None:
    tests = [splits(97, validation=share).test.tolist() for share in (0, 0.1, 0.2, 0.5)]
    assert all(test == tests[0] for test in tests)


def test_silos_and_seeds_draw_their_own() -> None:
    assert splits(50).test.tolist() != splits(50, "south").test.tolist()
    assert splits(50).test.tolist() != splits(50, seed=1).test.tolist()


def test_in_an_order_the_last_are_the_test_and_those_before_them_choose() -> None:
    ordered = DataConf(order="Time", validation=0.2, test=0.1)
    one = split(np.arange(50, 150), Silo("north", data=ordered))
    assert one.train.tolist() == list(range(50, 120))
    assert one.validation.tolist() == list(range(120, 140))
    assert one.test.tolist() == list(range(140, 150))

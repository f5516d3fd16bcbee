"""Statistics of all silos: the same as of the pooled rows, whatever the partition."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from client.sums import folded
from client.tables.column_sums import PLACES, class_weights, median, specs_of, sums_of
from client.tables.row_layer import RowLayer
from conf.schema.table_columns import ColumnConf

COLUMNS = [
    ColumnConf("big", "number", low=999_000, high=1_001_000, missing="typical"),
    ColumnConf("kind", "category", values=["a", "b", "c"], missing="typical"),
    ColumnConf("yes", "flag", missing="typical"),
    ColumnConf("same", "number", low=0, high=2),
    ColumnConf("day", "date", missing="typical"),
]


def rows(count: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    made = np.stack(
        [
            rng.normal(1e6, 30, count).clip(999_000, 1_001_000),
            rng.integers(0, 3, count),
            rng.random(count) < 0.8,
            np.full(count, 1.1),
            rng.uniform(0, 9000, count),
        ],
        axis=1,
    ).astype(np.float32)
    missing = rng.random(made.shape) < 0.2
    missing[:, 3] = False
    made[missing] = np.nan
    return made


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 200), st.integers(1, 6), st.integers(0, 99))
def test_mean_and_deviation_are_those_of_the_pooled_rows(count: int, silos: int, seed: int) -> None:
    whole = rows(count, seed)
    parts = np.array_split(whole, silos)
    layer = RowLayer(COLUMNS)

    layer.fit(folded(sums_of(part, None, COLUMNS, 0) for part in parts))

    known = whole[:, 0].astype(np.float64)
    known = known[~np.isnan(known)]
    if len(known) > 1 and known.std() > 0:
        assert float(layer.mean[0]) == pytest.approx(known.mean(), rel=1e-7)
        assert float(layer.scale[0]) == pytest.approx(known.std(), rel=1e-4)
    assert float(layer.scale[1]) == 1  # of equal values


def test_a_missing_value_is_the_mean_or_the_most_frequent_one() -> None:
    whole = rows(500, 0)
    layer = RowLayer(COLUMNS)
    layer.fit(sums_of(whole, None, COLUMNS, 0))
    nothing = torch.full((1, 5), torch.nan)
    nothing[0, 3] = 1.1

    made = layer(nothing)[0]

    assert float(made[0]) == pytest.approx(0, abs=1e-3)
    kinds = np.bincount(whole[~np.isnan(whole[:, 1]), 1].astype(int))
    assert made[-3:].tolist() == np.eye(3)[kinds.argmax()].tolist()
    assert float(made[2]) == 1  # eight of ten are yes


def test_each_sum_is_held_to_what_so_many_rows_add_up_to() -> None:
    whole = rows(100, 1)
    labels = np.arange(100) % 4
    given = sums_of(whole, labels, COLUMNS, 4)
    specs = specs_of(COLUMNS, 4)

    assert given.keys() == specs.keys()
    for name, value in given.items():
        spec = specs[name]
        assert value.shape == spec.shape
        assert value.dtype == (torch.float64 if spec.real else torch.int64)
        assert float(value.min()) >= min(spec.low * 100, 0)
        assert float(value.max()) <= spec.high * 100


def test_class_weights_make_classes_count_alike() -> None:
    weights = class_weights({"classes": torch.tensor([90, 10, 0])})

    assert weights.tolist() == pytest.approx([100 / 180, 100 / 20, 0])


MEDIANS = [
    ColumnConf("kind", "category", values=["a", "b", "c"], missing="median"),
    ColumnConf("income", "number", low=0, high=1000, missing="median"),
    ColumnConf("yes", "flag", missing="median"),
]


def incomes(count: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    made = np.stack(
        [
            rng.choice(3, count, p=[0.2, 0.7, 0.1]),
            rng.exponential(60, count).clip(0, 1000),
            rng.random(count) < 0.3,
        ],
        axis=1,
    ).astype(np.float32)
    made[rng.random(made.shape) < 0.2] = np.nan
    return made


@settings(max_examples=30, deadline=None)
@given(st.integers(3, 400), st.integers(1, 6), st.integers(0, 99))
def test_the_median_is_that_of_the_pooled_rows_to_half_a_part(
    count: int, silos: int, seed: int
) -> None:
    whole = incomes(count, seed)
    parts = np.array_split(whole, silos)
    sums = folded(sums_of(part, None, MEDIANS, 0) for part in parts)

    found = median(sums, MEDIANS, 1)

    known = np.sort(whole[~np.isnan(whole[:, 1]), 1])
    if len(known):
        # Of an even number of values any between the middle two is a median.
        low, high = known[(len(known) - 1) // 2], known[len(known) // 2]
        assert low - 500 / PLACES <= found <= high + 500 / PLACES


def test_a_missing_value_is_the_median_of_a_skewed_column_and_not_its_mean() -> None:
    whole = incomes(2000, 3)
    layer = RowLayer(MEDIANS)
    layer.fit(sums_of(whole, None, MEDIANS, 0))

    made = layer(torch.full((1, 3), torch.nan))[0]

    known = whole[~np.isnan(whole[:, 1]), 1]
    as_read = float(made[0] * layer.scale[0] + layer.mean[0])
    assert abs(as_read - np.median(known)) < 1000 / PLACES
    assert np.mean(known) - as_read > 10
    assert float(made[1]) == 0  # three of ten are yes
    assert made[2:].tolist() == [0, 1, 0]


def test_the_mean_is_taken_where_owners_withhold_most_places() -> None:
    whole = incomes(400, 4)
    sums = sums_of(whole, None, MEDIANS, 0)
    sums["places"][sums["places"] < 20] = 0

    known = whole[~np.isnan(whole[:, 1]), 1].astype(np.float64)
    assert median(sums, MEDIANS, 1) == pytest.approx(known.mean(), rel=1e-6)


def test_no_rows_at_all_leave_the_middle_of_the_range() -> None:
    layer = RowLayer(COLUMNS)

    layer.fit(sums_of(np.zeros((0, 5), np.float32), None, COLUMNS, 0))

    assert float(layer.mean[0]) == 1_000_000
    assert math.isfinite(float(layer(torch.zeros(1, 5)).sum()))

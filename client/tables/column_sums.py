"""What all silos know of a table's columns, by sums that add up over silos.

Numbers are summed in the contract's own units, -1 and 1 at the ends of its range: nothing is lost
where values lie far from 0, and a silo's sums can be held to what so many rows add up to.

    present   int64    (columns)         rows in which there is a value
    total     float64  (columns)         of the values, in the contract's units
    squares   float64  (columns)         of their squares; both are 0 for categories
    values    int64    (all categories)  rows of each value, category after category
    classes   int64    (classes)         rows of each class, where classes are predicted
    places    int64    (medians, 256)    rows in each 256th of a number's range, where missing values
                                         are taken for the median
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from client.tasks.base import SumSpec
from conf.schema.table_columns import CATEGORY, DATE, MEDIAN, NUMBER, ColumnConf

MOST_DAYS: Final = 3_000_000.0
"""From the year 2000, either way: about 8,000 years."""
PLACES: Final = 256
"""Parts of a number's range: a median is known to the width of one."""


def sums_of(
    rows: NDArray[np.float32],
    labels: NDArray[np.int64] | None,
    columns: Sequence[ColumnConf],
    classes: int,
) -> dict[str, Tensor]:
    """Return the sums of some rows (n, columns), with their classes (n) where there are any."""
    values = rows.astype(np.float64)
    there = ~np.isnan(values)
    middles, halves = _units(columns)
    in_units = np.where(there, (values - middles) / halves, 0.0)
    in_units[:, [column.type == CATEGORY for column in columns]] = 0.0
    sums = {
        "present": torch.from_numpy(there.sum(0)),
        "total": torch.from_numpy(in_units.sum(0)),
        "squares": torch.from_numpy(np.square(in_units).sum(0)),
        "values": torch.from_numpy(_counts(values, columns)),
    }
    if by_median(columns):
        sums["places"] = torch.from_numpy(_places(in_units, there, columns))
    if classes:
        assert labels is not None
        sums["classes"] = torch.from_numpy(np.bincount(labels, minlength=classes))
    return sums


def specs_of(columns: Sequence[ColumnConf], classes: int) -> dict[str, SumSpec]:
    """Return the form of these sums, and what a row may add to each."""
    width = (len(columns),)
    specs = {
        "present": SumSpec(width),
        "total": SumSpec(width, real=True, low=-1.0),
        "squares": SumSpec(width, real=True),
        "values": SumSpec((offsets(columns)[-1],)),
    }
    medians = len(by_median(columns))
    if medians:
        specs["places"] = SumSpec((medians, PLACES))
    if classes:
        specs["classes"] = SumSpec((classes,))
    return specs


def by_median(columns: Sequence[ColumnConf]) -> list[int]:
    """Return the columns of numbers whose missing values are taken for the median of all silos."""
    pairs = enumerate(columns)
    return [index for index, one in pairs if one.type == NUMBER and one.missing == MEDIAN]


def median(sums: Mapping[str, Tensor], columns: Sequence[ColumnConf], column: int) -> float:
    """Return a number's median over all silos, to half of a 256th of its range.

    Where owners withhold small counts and less than half of the values are known by their places,
    those that are left say nothing of the middle: then it is the mean, as it is without a value.
    """
    middles, halves = _units(columns)
    reached = sums["places"][by_median(columns).index(column)].cumsum(0)
    if int(reached[-1]) == 0 or 2 * int(reached[-1]) < int(sums["present"][column]):
        return deviation(sums, columns, column)[0]
    # The first part in which half of the values lie, with those below it.
    place = int((2 * reached < reached[-1]).sum())
    in_units = 2 * (place + 0.5) / PLACES - 1
    return float(middles[column] + in_units * halves[column])


def offsets(columns: Sequence[ColumnConf]) -> list[int]:
    """Return where each column's values begin among `values`, and where the last one ends."""
    counts = [_values(column) for column in columns]
    return [0, *itertools.accumulate(counts)]


def deviation(
    sums: Mapping[str, Tensor], columns: Sequence[ColumnConf], column: int
) -> tuple[float, float]:
    """Return a column's mean and standard deviation, 1 where its values are all the same; the
    middle of its range where no silo has a value.
    """
    middles, halves = _units(columns)
    count = int(sums["present"][column])
    if count == 0:
        return float(middles[column]), 1.0
    mean = float(sums["total"][column]) / count
    square = float(sums["squares"][column]) / count
    variance = square - mean**2
    # What rounding leaves of equal values is no spread.
    spread = 1.0 if variance <= 1e-12 * square else math.sqrt(variance) * float(halves[column])
    return float(middles[column]) + mean * float(halves[column]), spread


def category_counts(
    sums: Mapping[str, Tensor], columns: Sequence[ColumnConf], column: int
) -> Tensor:
    """Return in how many rows each value of a category stands."""
    begin, end = offsets(columns)[column : column + 2]
    return sums["values"][begin:end]


def class_weights(sums: Mapping[str, Tensor]) -> Tensor:
    """Return a weight for each class that makes classes count alike in a mean over all silos' rows:
    rows / (classes that occur * rows of this one), 0 of a class without rows.
    """
    counts = sums["classes"].double()
    occurring = int((counts > 0).sum())
    weights = counts.sum() / (max(occurring, 1) * counts.clamp(min=1))
    return torch.where(counts > 0, weights, 0.0).float()


def _counts(values: NDArray[np.float64], columns: Sequence[ColumnConf]) -> NDArray[np.int64]:
    parts = [np.zeros(0, np.int64)]
    for index, column in enumerate(columns):
        if column.type == CATEGORY:
            known = values[:, index]
            known = known[~np.isnan(known)].astype(np.int64)
            parts.append(np.bincount(known, minlength=_values(column)))
    return np.concatenate(parts)


def _places(
    in_units: NDArray[np.float64], there: NDArray[np.bool_], columns: Sequence[ColumnConf]
) -> NDArray[np.int64]:
    parts = []
    for index in by_median(columns):
        known = in_units[there[:, index], index]
        # What lies at the range's end, or by rounding a little beyond it, is in the last part.
        place = np.clip((known + 1) / 2 * PLACES, 0, PLACES - 1).astype(np.int64)
        parts.append(np.bincount(place, minlength=PLACES))
    return np.stack(parts)


def _values(column: ColumnConf) -> int:
    return len(column.values) + column.other if column.type == CATEGORY else 0


def _units(columns: Sequence[ColumnConf]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the middle of each column's range and half its width."""
    units = [_unit(column) for column in columns]
    return np.array([middle for middle, _ in units]), np.array([half for _, half in units])


def _unit(column: ColumnConf) -> tuple[float, float]:
    if column.type == NUMBER and column.low is not None and column.high is not None:
        return (column.low + column.high) / 2, (column.high - column.low) / 2
    return (0.0, MOST_DAYS) if column.type == DATE else (0.0, 1.0)

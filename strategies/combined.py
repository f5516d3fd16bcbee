"""What rules over all updates of a round make of them, column by column or as weighted sums.

Every sum over rows adds one row after another, and sums over columns are numpy's own: nothing calls
BLAS, whose threads would compete with workers that have every core already.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from strategies.spill import Block, Flat, Rows

Values = NDArray[np.float64]
OfColumns = Callable[[Values], tuple[Values, Values]]
"""Returns of a block (rows, columns) its columns' values, and how often each row counted in them."""
Point = Callable[[Block, Values], Values]
"""Returns the columns of a point from a block and its rows."""


@dataclass(frozen=True)
class Combined:
    """What a rule makes of a round: the next model's floats, and how much each row counted."""

    values: Flat
    counted: Values


def by_columns(rows: Rows, of_columns: OfColumns) -> Combined:
    """Return what a rule of single weights makes of the rows."""
    made = rows.layout.empty()
    counted = np.zeros(len(rows))
    for block, values in rows.blocks():
        made[block.dtype][block.at], times = of_columns(values)
        counted += times
    return Combined(made, counted)


def weighted(rows: Rows, weights: Values, point: Point | None = None) -> Combined:
    """Return the sum of the rows by their weights, from a point on where there is one."""
    made = rows.layout.empty()
    for block, values in rows.blocks():
        total = weighted_sum(values, weights)
        if point is not None:
            total += point(block, values)
        made[block.dtype][block.at] = total
    return Combined(made, weights)


def weighted_sum(values: Values, weights: Values) -> Values:
    """Return the sum over the rows of a block by their weights, one row after another."""
    total = np.zeros(values.shape[1])
    for row, weight in zip(values, weights, strict=True):
        if weight:
            total += weight * row
    return total


def distances(rows: Rows, point: Point) -> Values:
    """Return the L2 distance of each row to a point."""
    squares = np.zeros(len(rows))
    for block, values in rows.blocks():
        at = point(block, values)
        for row, value in enumerate(values):
            change = value - at
            change *= change
            squares[row] += float(change.sum())
    return np.sqrt(squares)


def squared_distances(rows: Rows) -> Values:
    """Return the squares of the L2 distances between all rows, (rows, rows)."""
    squares = np.zeros((len(rows), len(rows)))
    for _, values in rows.blocks():
        change = np.empty(values.shape[1])
        for one in range(len(rows)):
            for other in range(one + 1, len(rows)):
                np.subtract(values[one], values[other], out=change)
                np.multiply(change, change, out=change)
                squares[one, other] += float(change.sum())
    return squares + squares.T


def in_order(values: Values) -> Values:
    """Return the values of each column in ascending order, (rows, columns)."""
    # A column lies in one piece while it is sorted; sorted whole, the bits are those of any machine.
    return np.ascontiguousarray(np.sort(np.ascontiguousarray(values.T), axis=1).T)


def within(values: Values, low: Values, high: Values) -> Values:
    """Return in how many columns each row lies between two values, these included."""
    return np.asarray(((values >= low) & (values <= high)).sum(axis=1), np.float64)


def mean_of(rows: Values) -> Values:
    """Return the mean of the rows of a block, added one after another."""
    return weighted_sum(rows, np.ones(len(rows))) / len(rows)

"""The first layer of a model over a table: rows as they were read become what a model can learn from.

Its statistics are buffers, so that they travel and are kept with the model: a model file predicts
on raw columns by itself, and every silo scales by the same numbers.

    number     (x - mean) / deviation over all silos, or -1 to 1 over the contract's range
    flag       0 or 1
    category   one number for each value, 1 for its own and 0 for the others
    date       years since 2000; sine and cosine of the day in the year, of the hour in the day
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

import torch
from torch import Tensor, nn

from client.tables.column_sums import category_counts, class_weights, deviation, median
from conf.schema.table_columns import (
    CATEGORY,
    CONSTANT,
    DATE,
    FLAG,
    MEDIAN,
    NUMBER,
    REFUSE,
    TYPICAL,
    ColumnConf,
)

DAYS_OF_A_YEAR: Final = 365.2425
OF_A_DATE: Final = 5
"""Numbers that a date becomes."""


class RowLayer(nn.Module):
    """Rows (n, columns) as read, NaN where a value is missing, become (n, width) of float32.

    `fit` sets what all silos know of the columns.
    """

    mean: Tensor
    scale: Tensor
    fill: Tensor
    mode: Tensor
    class_weights: Tensor
    """What an example of each class weighs in the loss; empty where all weigh the same."""

    def __init__(
        self,
        columns: Sequence[ColumnConf],
        *,
        scale: str = "standard",
        missing_flags: bool = False,
        classes: int = 0,
    ) -> None:
        super().__init__()
        self._columns = tuple(columns)
        self._by_range = scale == "range"
        self._numbers = _indices(columns, NUMBER)
        self._flags = _indices(columns, FLAG)
        self._categories = _indices(columns, CATEGORY)
        self._dates = _indices(columns, DATE)
        self._told = [i for i, c in enumerate(columns) if missing_flags and c.missing != REFUSE]
        numbers = [columns[i] for i in self._numbers]
        low = torch.tensor([c.low or 0.0 for c in numbers])
        high = torch.tensor([1.0 if c.high is None else c.high for c in numbers])
        self.register_buffer("mean", (low + high) / 2)
        self.register_buffer("scale", (high - low) / 2)
        # What a missing value is taken for: of numbers, flags and dates as read, of a category the
        # index of its value.
        self.register_buffer("fill", self._constants(low, high))
        self.register_buffer("mode", torch.zeros(len(self._categories)))
        self.register_buffer("class_weights", torch.ones(classes))

    @property
    def shape(self) -> tuple[int]:
        """The shape of one row as the model behind this layer gets it."""
        categories = sum(_values(self._columns[i]) for i in self._categories)
        others = len(self._numbers) + len(self._flags) + OF_A_DATE * len(self._dates)
        return (others + categories + len(self._told),)

    def fit(self, sums: Mapping[str, Tensor]) -> None:
        """Take what all silos know of the columns (`client.tables.column_sums`) into the buffers."""
        for place, index in enumerate([*self._numbers, *self._flags, *self._dates]):
            column = self._columns[index]
            mean, spread = deviation(sums, self._columns, index)
            if column.type == NUMBER and not self._by_range:
                self.mean[place] = mean
                self.scale[place] = spread
            if column.missing == MEDIAN and column.type == NUMBER:
                self.fill[place] = median(sums, self._columns, index)
            elif column.missing in (TYPICAL, MEDIAN):
                # The mean of 0 and 1 is nearer to the one that is more frequent, as the median is.
                self.fill[place] = round(mean) if column.type == FLAG else mean
        for place, index in enumerate(self._categories):
            counts = category_counts(sums, self._columns, index)
            self.mode[place] = int(counts.argmax()) if len(counts) else 0
        if len(self.class_weights):
            self.class_weights.copy_(class_weights(sums))

    def forward(self, rows: Tensor) -> Tensor:
        """Return rows (n, width)."""
        parts = [self._told_missing(rows)] if self._told else []
        rest = [*self._numbers, *self._flags, *self._dates]
        plain = rows[:, rest]
        plain = torch.where(plain.isnan(), self.fill.to(plain.dtype), plain)
        numbers, flags, dates = plain.split(
            [len(self._numbers), len(self._flags), len(self._dates)], dim=1
        )
        parts += [(numbers - self.mean) / self.scale, flags, _of_dates(dates)]
        for place, index in enumerate(self._categories):
            chosen = rows[:, index]
            chosen = torch.where(chosen.isnan(), self.mode[place].to(chosen.dtype), chosen)
            values = torch.arange(_values(self._columns[index]), device=rows.device)
            parts.append((chosen[:, None] == values).to(rows.dtype))
        return torch.cat(parts, dim=1)

    def _told_missing(self, rows: Tensor) -> Tensor:
        return rows[:, self._told].isnan().to(rows.dtype)

    def _constants(self, low: Tensor, high: Tensor) -> Tensor:
        rest = [*self._numbers, *self._flags, *self._dates]
        middle = torch.zeros(len(rest))
        middle[: len(self._numbers)] = (low + high) / 2
        for place, index in enumerate(rest):
            constant = self._columns[index].constant
            if self._columns[index].missing == CONSTANT and constant is not None:
                middle[place] = constant
        return middle


def _of_dates(days: Tensor) -> Tensor:
    """Return days since 2000 (n, dates) as five numbers each (n, 5 * dates)."""
    years = days / DAYS_OF_A_YEAR
    of_year = years * (2 * math.pi)
    of_day = days.frac() * (2 * math.pi)
    made = [years, of_year.sin(), of_year.cos(), of_day.sin(), of_day.cos()]
    return torch.cat(made, dim=1)


def _indices(columns: Sequence[ColumnConf], kind: str) -> list[int]:
    return [index for index, column in enumerate(columns) if column.type == kind]


def _values(column: ColumnConf) -> int:
    return len(column.values) + column.other

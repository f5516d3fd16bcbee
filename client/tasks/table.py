"""Rows of a table in CSV or Parquet files; `task.columns` and `task.label` say what is in them.

The label decides the kind of problem: a category or a flag is classified, a number is predicted,
several flags (`task.labels`) each hold or not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from client.groups import FILE, Columns
from client.leading_metric import lead_with
from client.partition import Indices
from client.tables.bundled import bundled_table
from client.tables.column_sums import specs_of, sums_of
from client.tables.contract import NO_AND_YES, TableContract, contract_of, wrong
from client.tables.reading import Table, read_table
from client.tables.row_layer import RowLayer
from client.tasks.base import Contract, Data, SumSpec, Task
from client.tasks.kinds.arrays import Arrays, ArrayTask
from client.tasks.kinds.classification import RANKED
from client.tasks.kinds.multi_label import MultiLabel
from client.tasks.kinds.regression import Regression
from client.tasks.kinds.subgrouped import SubgroupedClassification
from conf.errors import DataError
from conf.schema import DataConf
from conf.schema.table_columns import CATEGORY, FLAG
from conf.schema_keys import nearest


def build(
    label: str = "",
    labels: Sequence[str] = (),
    columns: Sequence[Mapping[str, Any]] = (),
    missing: str = "refuse",
    missing_flags: bool = False,
    balanced: bool = False,
    scale: str = "standard",
    rows_at_least: int = 1,
    dataset: str = "",
    bundled: str = "",
    headline: str = "",
    subgroup: str = "",
) -> Task:
    """Return the task that a contract says; the arguments are those of `conf.schema.TableConf`.

    Raises ConfigError MDW-186 for a contract that can't be meant.
    """
    contract = contract_of(columns, label, labels, missing)
    layer = LayerSettings(scale, missing_flags, balanced)
    source = Source(rows_at_least, bundled)
    if subgroup and contract.problem != "class":
        raise wrong("task.subgroup needs a label that is a class", "Leave it out.")
    task: Task
    if contract.problem == "class":
        task = ClassOfRow(contract, layer, source, subgroup)
    elif contract.problem == "flags":
        task = FlagsOfRow(contract, layer, source)
    else:
        task = NumberOfRow(contract, layer, source)
    lead_with(task, headline)
    return task


class LayerSettings(NamedTuple):
    """How the rows are made ready for a model."""

    scale: str
    missing_flags: bool
    balanced: bool


class Source(NamedTuple):
    """Where rows come from: files with so many at least, or a table that scikit-learn brings."""

    rows_at_least: int
    bundled: str


class TableRows(ArrayTask):
    """What tables have in common, whatever is predicted: rows as read, which the model's first
    layer makes ready.
    """

    orders = True

    def __init__(self, table: TableContract, layer: LayerSettings, source: Source) -> None:
        self.table = table
        self._layer = layer
        self._source_of_rows = source
        self._last: Table | None = None
        names = [column.name for column in table.labels]
        shape = (len(table.inputs),)
        if table.problem == "number":
            self.contract = Contract(shape, targets=tuple(names))
        else:
            self.contract = Contract(shape, table.classes)

    def public(self, data: DataConf) -> Arrays:
        """Return the rows of `data.root`, or those that scikit-learn brings."""
        bundled = self._source_of_rows.bundled
        if bundled and data.root is None:
            return self._rows(bundled_table(bundled, self.table, data), data)
        return super().public(data)

    def read_as(self, root: Path, data: DataConf) -> Arrays:
        """Return the rows of a silo's files; raises DataError MDW-240 to 243."""
        table = read_table(root, self.table, data)
        least = self._source_of_rows.rows_at_least
        if len(table) < least:
            raise DataError(
                "MDW-243",
                f"{root} has {len(table)} rows, the contract asks for {least}.",
                "Add rows, or lower task.rows_at_least.",
                {"expected": f"at least {least} rows", "found": "fewer"},
            )
        return self._rows(table, data)

    def unlabelled(self, root: Path, data: DataConf) -> tuple[range, Tensor]:
        """Return rows whose label is not known, and need not be in the files, with their numbers
        from 1; raises DataError as `read_as` does.
        """
        table = read_table(root, TableContract(self.table.inputs, ()), data)
        return range(1, len(table) + 1), torch.from_numpy(table.inputs)

    def _rows(self, table: Table, data: DataConf) -> Arrays:
        if data.order is not None:
            table = table.ordered(data.order)
        self._last = table
        return table.inputs, self.targets(table.labels)

    def targets(self, labels: NDArray[np.float32]) -> NDArray[Any]:
        """Return what is predicted, from the label columns as read (n, labels)."""
        return labels

    def columns_as(self, data: DataConf) -> Columns:
        """Return the columns that `data.group` and `data.column` name, and each row's file."""
        assert self._last is not None  # the rows were read before anything is asked of them
        return {**self._last.beside, FILE: self._last.files}

    def checked(self, examples: Arrays, where: object) -> Arrays:
        """Return rows as they are: they were checked against the table's contract when read."""
        return examples

    def dataset(self, examples: Arrays, which: Indices | slice) -> TensorDataset:
        """Return some of the rows, NaN where a value is missing, and their targets."""
        inputs, targets = examples
        return TensorDataset(
            torch.from_numpy(np.array(inputs[which])), torch.from_numpy(np.array(targets[which]))
        )

    def input_layer(self) -> RowLayer:
        """Return the layer that makes rows ready for a model."""
        return RowLayer(
            self.table.inputs,
            scale=self._layer.scale,
            missing_flags=self._layer.missing_flags,
            classes=len(self.table.classes) if self._layer.balanced else 0,
        )

    def statistics(self, data: Data) -> Mapping[str, Tensor]:
        """Return what a silo's training rows add to the columns' statistics."""
        # A TensorDataset, of `dataset`.
        rows, _ = data.train[:]
        return sums_of(rows.numpy(), data.labels, self.table.inputs, self._classes)

    def statistic_specs(self) -> Mapping[str, SumSpec]:
        """Return the form of the columns' statistics."""
        return specs_of(self.table.inputs, self._classes)

    @property
    def _classes(self) -> int:
        return len(self.table.classes) if self.table.problem == "class" else 0


class ClassOfRow(TableRows, SubgroupedClassification):
    """Which class a row is of; with `subgroup`, counted for each value of that column as well."""

    ranked = True
    shown = RANKED

    def __init__(
        self, table: TableContract, layer: LayerSettings, source: Source, subgroup: str = ""
    ) -> None:
        super().__init__(table, layer, source)
        self.balanced = layer.balanced
        self._column = 0
        if subgroup:
            self._column, names = _groups_in(table, subgroup)
            self.tell_groups(names)

    def targets(self, labels: NDArray[np.float32]) -> NDArray[np.int64]:
        """Return the class of each row (n)."""
        return labels[:, 0].astype(np.int64)

    def groups_in(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Return the value of the subgroup's column in each row (n)."""
        return batch[0][:, self._column]


def _groups_in(table: TableContract, name: str) -> tuple[int, tuple[str, ...]]:
    """Return where the column of groups stands among the inputs, and the groups' names."""
    for index, column in enumerate(table.inputs):
        if column.name == name and column.type in (CATEGORY, FLAG):
            named = column.values or list(NO_AND_YES)
            return index, (*named, *(["other"] if column.other else []))
    listed = [column.name for column in table.inputs if column.type in (CATEGORY, FLAG)]
    raise wrong(f"task.subgroup={name} is no category or flag that is read", nearest(name, listed))


class FlagsOfRow(TableRows, MultiLabel):
    """Which of several flags hold of a row."""


class NumberOfRow(TableRows, Regression):
    """A number of each row."""

    def __init__(self, table: TableContract, layer: LayerSettings, source: Source) -> None:
        super().__init__(table, layer, source)
        (label,) = table.labels
        assert label.low is not None and label.high is not None  # of a contract's numbers
        self.ranges = ((label.low, label.high),)  # type: ignore[misc]  # of this table's class alone
        self._center = (label.low + label.high) / 2
        self._half = (label.high - label.low) / 2

    def output(self, model: nn.Module, batch: Any) -> Tensor:
        """Return the numbers (n, 1): a model gives them in units of the label's range, -1 to 1."""
        made: Tensor = model(batch[0])
        return self._center + self._half * made

    def loss(self, output: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Return the mean squared error in those units, so that a learning rate fits any label."""
        return super().loss(output, batch) / self._half**2

    def targets(self, labels: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the numbers (n, 1)."""
        return labels

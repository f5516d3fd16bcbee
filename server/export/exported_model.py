"""A finished model as one module, from examples as they were read to what its task makes of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from client.tasks.base import Task
from client.tasks.images import ImageFilesTask
from client.tasks.kinds.arrays import ANY_SIDE
from client.tasks.kinds.balanced import Weighted
from client.tasks.kinds.classification import Classification
from client.tasks.kinds.multi_label import MultiLabel
from client.tasks.table import TableRows
from conf.errors import DataError
from conf.schema.table_columns import DATE, FLAG, NUMBER, REFUSE, ColumnConf

SAMPLES = 5
"""Examples on which an exported model is tried; an odd number, and not one."""


class ExportedModel(nn.Module):
    """What a task makes of a model's outputs: logits of classes and flags, numbers in their units."""

    def __init__(self, task: Task, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._task = task

    def forward(self, examples: Tensor) -> Tensor:
        """Return the outputs (n, outputs) of examples as they were read (n, ...)."""
        made: Any = self._task.output(self.model, (examples,))
        logits: Tensor = made.logits if isinstance(made, Weighted) else made
        return logits


def sample(task: Task) -> Tensor:
    """Return made-up examples of a task, as they would be read.

    Raises DataError MDW-257 for a task whose examples are not one tensor.
    """
    drawn = torch.Generator().manual_seed(0)
    if isinstance(task, TableRows):
        columns = [_cells(column, drawn) for column in task.table.inputs]
        return torch.stack(columns, dim=1)
    if isinstance(task, ImageFilesTask):
        shape = [ANY_SIDE if side is None else side for side in task.contract.shape]
        return torch.randint(0, 256, (SAMPLES, *shape), generator=drawn, dtype=torch.uint8)
    made = task.made_up()
    if isinstance(made, torch.utils.data.TensorDataset) and len(made):
        inputs = made.tensors[0]
        if inputs.is_floating_point():
            return torch.rand((SAMPLES, *inputs.shape[1:]), generator=drawn)
        return inputs.repeat(SAMPLES, *[1] * (inputs.dim() - 1))[:SAMPLES]
    raise DataError(
        "MDW-257",
        f"The task {task.name} says of no tensor of examples what a model gets.",
        "Load the model with meadow.load_model, and export it with what you know of its examples.",
    )


def _cells(column: ColumnConf, drawn: torch.Generator) -> Tensor:
    """Return cells of a column as numbers, one of them missing where that is allowed."""
    random = torch.rand(SAMPLES, generator=drawn)
    if column.type == NUMBER and column.low is not None and column.high is not None:
        cells = column.low + (column.high - column.low) * random
    elif column.type == DATE:
        cells = (random * 20_000).round()
    elif column.type == FLAG:
        cells = random.round()
    else:
        cells = (random * (len(column.values) + column.other)).floor()
    if column.missing != REFUSE:
        cells[0] = float("nan")
    return cells


def kind_of(task: Task) -> str:
    """Return what a model's outputs are: of a class, of flags, or numbers."""
    if isinstance(task, Classification):
        return "class"
    return "flags" if isinstance(task, MultiLabel) else "numbers"

"""A set of predictions dealt out to silos and batches at random, and folded again."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from client import sums
from client.sums import Metrics
from client.tasks.base import Task


def federated(task: Task, outputs: list[Any], rows: list[Any], rng: np.random.Generator) -> Metrics:
    """Return the metrics of a federation whose silos have some of the rows each, in batches.

    `outputs` holds the model's answer to each row: tensors of one shape, or of the row's length.
    """
    silo_of = rng.integers(0, rng.integers(1, 6), len(rows))
    parts = []
    for silo in np.unique(silo_of):
        part: sums.Sums = {}
        mine = np.flatnonzero(silo_of == silo)
        for batch in np.array_split(mine, rng.integers(1, len(mine) + 1)):
            chosen = [rows[index] for index in batch]
            output = [outputs[index] for index in batch]
            sums.add(part, sums.of_batch(task, _joined(output), _collated(task, chosen)))
        if int(part[sums.SIZE]):
            check_ranges(task, part)
        parts.append(part)
    return sums.metrics_of(task, sums.folded(parts))


def check_ranges(task: Task, part: sums.Sums) -> None:
    """Assert what the server's admission asks of a silo's sums."""
    size = int(part[sums.SIZE])
    for name, spec in sums.specs_of(task).items():
        assert part[name].shape == spec.shape
        room = 1e-9 * size if spec.real else 0
        assert float(part[name].min()) >= min(spec.low * size, 0) - room
        assert float(part[name].max()) <= max(spec.high * size, 0) + room


def _collated(task: Task, rows: list[Any]) -> Any:
    if task.collate is not None:
        return task.collate(rows)
    columns = zip(*rows, strict=True)
    return tuple(torch.stack([torch.as_tensor(one) for one in column]) for column in columns)


def _joined(outputs: list[torch.Tensor]) -> torch.Tensor:
    return torch.nn.utils.rnn.pad_sequence(outputs, batch_first=True, padding_value=7.0)

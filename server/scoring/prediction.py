"""What a finished run's model says of rows or images that nobody labelled.

A model file predicts on what was read by itself: the first layer has what it needs. Only how a file
is read, and what its outputs are called, is the contract's.

    MDW-251 a task that can't read examples without labels
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from client.tasks import task_of
from client.tasks.base import Task, root_of
from conf.errors import DataError
from conf.files.whole import PRIVATE, write_atomic
from conf.schema import DataConf
from server.run.result import RunResult
from server.run.run_folder import find
from server.scoring.decision_rule import DecisionRule, probable
from server.scoring.evaluation import conf_of, load_model

AT_ONCE: Final = 512
"""Examples that the model gets at a time."""


def predict(run: str, data: DataConf, output: Path) -> int:
    """Write a line for each example under `data.root`, in the order in which they are read, and
    return how many there are.

    `place` says which one it is (a row's number, an image's name), `prediction` what the model says
    (`server.scoring.decision_rule`); of classes and flags there is a column with each one's
    probability. Raises DataError: MDW-251
    for a task that reads nothing without labels, and what reading raises.
    """
    folder = find(run)
    task = task_of(conf_of(folder).task)
    model = load_model(folder.path)
    rule = DecisionRule.of(RunResult.read(folder.path))
    places, examples = _unlabelled(task, data)
    header = ["place", "prediction", *(f"p_{name}" for name in probable(task))]
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(header)
    with torch.inference_mode():
        for begin in range(0, len(examples), AT_ONCE):
            made = task.output(model, (examples[begin : begin + AT_ONCE],))
            logits = getattr(made, "logits", made)
            for place, said in zip(places[begin:], rule.said(task, logits), strict=False):
                writer.writerow([place, *said])
    write_atomic(output, text.getvalue().encode(), PRIVATE)
    return len(examples)


def _unlabelled(task: Task, data: DataConf) -> tuple[Sequence[object], Tensor]:
    read = getattr(task, "unlabelled", None)
    if read is None:
        raise DataError(
            "MDW-251",
            f"The task {task.name} reads no examples without labels.",
            "Load the model with meadow.load_model, or use task=table or task=images.",
        )
    found: tuple[Sequence[object], Tensor] = read(root_of(data), data)
    return found

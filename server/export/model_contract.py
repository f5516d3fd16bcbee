"""What an exported model's inputs and outputs mean, as plain values: `contract.json`, and inside the
file of each format.
"""

from __future__ import annotations

from typing import Any, Final

from client.tables.encoding import MISSING, NO, YES
from client.tasks.base import Task
from client.tasks.images import ImageFilesTask
from client.tasks.table import TableRows
from conf.schema.table_columns import FLAG, ColumnConf
from server.export.exported_model import kind_of
from server.run.result import RunResult
from server.scoring.decision_rule import DecisionRule

VERSION: Final = 1
KEY: Final = "meadow.contract"
"""Under which it stands in a format's own metadata."""


def contract_of(task: Task, result: RunResult) -> dict[str, Any]:
    """Return the contract of a finished run's model."""
    return {
        "version": VERSION,
        "run": result.run_id,
        "task": result.task,
        "digest": result.model.get("digest", ""),
        "input": _input(task),
        "output": _output(task, result),
    }


def _input(task: Task) -> dict[str, Any]:
    if isinstance(task, TableRows):
        return {
            "kind": "rows",
            "columns": [_column(column) for column in task.table.inputs],
            "missing": list(MISSING),
            "dates": "days since 2000-01-01",
        }
    if isinstance(task, ImageFilesTask):
        channels, height, width = task.contract.shape
        return {"kind": "images", "channels": channels, "height": height, "width": width}
    shape = list(task.contract.shape) if task.contract else []
    return {"kind": "array", "shape": shape}


def _column(column: ColumnConf) -> dict[str, Any]:
    known: dict[str, Any] = {
        "name": column.name,
        "type": column.type,
        "low": column.low,
        "high": column.high,
        "unit": column.unit,
        "values": list(column.values),
        "map": {one["text"]: one["means"] for one in column.map},
        "other": column.other,
        "missing": column.missing,
    }
    if column.type == FLAG:
        words = [[column.values[0]], [column.values[1]]] if column.values else [list(NO), list(YES)]
        known["words"] = words
    return known


def _output(task: Task, result: RunResult) -> dict[str, Any]:
    kind = kind_of(task)
    if task.contract is None:
        return {"kind": kind, "names": []}
    if kind == "numbers":
        return {"kind": kind, "names": list(task.contract.targets or task.contract.classes)}
    rule = DecisionRule.of(result)
    return {
        "kind": kind,
        "names": list(task.contract.classes),
        "temperature": rule.temperature,
        "thresholds": rule.thresholds,
    }

"""What chooses: the validation metric by which a run stops early and `run.keep=best` keeps a model."""

from __future__ import annotations

import math
from dataclasses import dataclass

from client.tasks.base import Task
from conf.errors import ConfigError
from conf.schema import RunConf
from conf.schema_keys import nearest
from server.run.result import Metrics
from strategies.wire import protocol

CENTRAL = "central_"
"""Prefix of the metrics of a task's own test set."""
_PREFIX_OF_TRAINING = "train_"


@dataclass(frozen=True)
class Choice:
    """One of the aggregate metrics of a round, and whether more or less of it is better."""

    metric: str
    mode: str

    @property
    def is_evaluated(self) -> bool:
        """Whether silos' evaluations give the metric, and not their training."""
        return not self.metric.startswith(_PREFIX_OF_TRAINING)

    def value(self, aggregate: Metrics) -> float:
        """Return the metric of a round; raises ConfigError MDW-107 where there is no such metric."""
        if self.metric in aggregate:
            return aggregate[self.metric]
        hint = nearest(self.metric, aggregate)
        if protocol.LOSS not in aggregate:
            # An evaluation always has a loss: without it nobody evaluated.
            hint = "No silo evaluated: look at data.validation, and at what failed in the round."
        raise ConfigError(
            "MDW-107",
            f"run.early_stop.metric={self.metric}: the rounds of this run have no such metric.",
            hint,
        )

    def better(self, value: float, than: float | None, *, by: float = 0.0) -> bool:
        """Return whether a value is better than another by more than `by`; NaN never is."""
        if math.isnan(value):
            return False
        if than is None:
            return True
        sign = 1 if self.mode == "min" else -1
        return sign * (than - value) > by


def choice_of(run: RunConf, task: Task) -> Choice | None:
    """Return what chooses in a run, or None where nothing does: no patience, and the last model kept.

    Without `run.early_stop.metric` it is the first that the task shows. Raises ConfigError: MDW-161
    for a metric of the test set, MDW-162 where the task does not say which way a metric is better.
    """
    if run.early_stop.patience is None and run.keep == "last":
        return None
    metric = run.early_stop.metric
    if metric is None:
        metric = next(iter(task.shown))
    if metric.startswith(CENTRAL):
        raise ConfigError(
            "MDW-161",
            f"run.early_stop.metric={metric} is a metric of the test set, which chooses nothing.",
            f"Choose by a validation metric, such as {metric.removeprefix(CENTRAL)}.",
        )
    mode = run.early_stop.mode
    if mode == "auto":
        mode = _mode_of(metric, task)
    return Choice(metric, mode)


def _mode_of(metric: str, task: Task) -> str:
    """Return max or min: what the task shows it as; of any loss it is min."""
    name = metric.removeprefix(_PREFIX_OF_TRAINING)
    if name == protocol.LOSS:
        return "min"
    if name not in task.shown:
        raise ConfigError(
            "MDW-162",
            f"run.early_stop.metric={metric}: the task {task.name} does not say whether more or"
            " less of it is better.",
            f"Set run.early_stop.mode, or choose one of: {', '.join(task.shown)}.",
        )
    return task.shown[name]

"""What an evaluation tells of a silo's split: its owner's thresholds, applied where the data is.

Three rules of `policy`, for validation and test alike. A split of fewer than
`evaluated_examples_at_least` examples is answered as if it were empty: all or nothing. With
`cells_at_least` each count that is small, but not 0, is withheld: a 0 is sent in its place, and the
answer says that something is missing, so that whoever prints the metric can say so too. A metric
whose `metrics_at_least` the split does not have is withheld with all sums that it is made of, and the
answer names it: another that is made of these goes with it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from client import sums
from client.batches import length
from client.loop import Evaluation
from client.sums import Metrics, Sums
from client.tasks.base import Data, Task
from conf.allowed import ALLOW_LIST
from conf.schema import PolicyConf
from strategies.wire import protocol

PRESENT: Final = "present"
"""Of statistics: in how many examples each column has a value."""


@dataclass(frozen=True)
class Told:
    """What is sent of an evaluation: its sums, empty where nothing is, and its metrics."""

    sums: Sums
    metrics: Metrics


def told(evaluation: Evaluation, task: Task, policy: PolicyConf) -> Told:
    """Return what the owner lets out of an evaluation; raises DataError as `sums.metrics_of` does.

    The metrics are made of what is sent, so that they tell no more.
    """
    few = evaluation.examples < (policy.evaluated_examples_at_least or 1)
    least = policy.cells_at_least or 1
    # The loss is a mean over this many. Of fewer than a cell may have it tells too much.
    if few or int(evaluation.sums[sums.SIZE]) < least:
        return Told({}, {protocol.NUM_EXAMPLES: 0})
    kept_back = withheld_metrics(evaluation, task, policy)
    if kept_back is None:
        return nothing_told()
    sent = _without_sums(_without_small(evaluation.sums, task, least), task, kept_back)
    cost = evaluation.cost
    if any(not torch.equal(sent[name], evaluation.sums[name]) for name in sent):
        cost[protocol.WITHHELD] = 1
    metrics = sums.metrics_of(task, sent)
    for name in kept_back:
        # What they would be of sums that are 0 is no metric of these examples.
        metrics[name] = math.nan
        cost |= {protocol.WITHHELD: 1, f"{protocol.WITHHELD_METRIC}{name}": 1}
    return Told(sent, metrics | cost)


def withheld_metrics(
    evaluation: Evaluation, task: Task, policy: PolicyConf
) -> frozenset[str] | None:
    """Return the metrics that a split has too few examples for; None where nothing may be told.

    The loss and its size go with every answer, so nothing is told where these may not be, or where
    what is withheld would have to be told apart from them.
    """
    least = policy.metrics_at_least
    if not least:
        return frozenset()
    if evaluation.examples < least.get(sums.LOSS, 1):
        return None
    names = set(sums.metrics_of(task, evaluation.sums)) - {sums.LOSS}
    # A policy of version 2 is an allow-list: what it does not name does not leave.
    unnamed = math.inf if policy.version == ALLOW_LIST else 1
    small = {name for name in names if evaluation.examples < least.get(name, unnamed)}
    if not small:
        return frozenset()
    # Sums that are 0 beside a size that is not would make a metric too low instead of missing.
    read = _Read(evaluation.sums)
    with suppress(ZeroDivisionError):
        task.metrics(read)
    if read.names & {sums.LOSS, sums.SIZE}:
        return None
    gone = _sums_of(small, task)
    return frozenset(name for name in names if gone & _sums_of({name}, task))


class _Read(dict[str, Tensor]):
    """Sums that note which of them a task's `metrics` reads."""

    def __init__(self, given: Sums) -> None:
        super().__init__(given)
        self.names: set[str] = set()

    def __getitem__(self, name: str) -> Tensor:
        self.names.add(name)
        return super().__getitem__(name)


def _sums_of(metrics: Collection[str], task: Task) -> set[str]:
    """Return the task's sums that metrics are made of."""
    every = tuple(task.sum_specs())
    made_of = _metric_sums(task)
    return {name for metric in metrics for name in made_of.get(metric, every)}


def _metric_sums(task: Task) -> Mapping[str, tuple[str, ...]]:
    """Return of which sums metrics are made; metrics of a task's own need a table of its own."""
    for kind in type(task).__mro__:
        if "metric_sums" in vars(kind):
            return task.metric_sums
        if "metrics" in vars(kind):
            break
    return {}


def _without_sums(given: Sums, task: Task, metrics: Collection[str]) -> Sums:
    gone = _sums_of(metrics, task)
    return {n: torch.zeros_like(value) if n in gone else value for n, value in given.items()}


def statistics_told(task: Task, data: Data, policy: PolicyConf) -> Sums:
    """Return what the owner lets out of the statistics before the first round; empty where the
    owner tells no counts, or the training split is smaller than what may be evaluated.

    Small counts are withheld as those of an evaluation are, and with the count of a column's values
    (`present`) what these values add up to.
    """
    examples = length(data.train)
    least = policy.cells_at_least or 1
    if not policy.reveal_counts or examples < max(least, policy.evaluated_examples_at_least or 1):
        return {}
    given = dict(task.statistics(data))
    specs = task.statistic_specs()
    sent = {
        name: value if specs[name].real else without_small_counts(value, least)
        for name, value in given.items()
    }
    there = sent.get(PRESENT)
    for name, value in sent.items():
        if there is not None and specs[name].real and value.shape == there.shape:
            sent[name] = torch.where(there > 0, value, 0.0)
    return {**sent, sums.SIZE: torch.tensor(examples)}


def nothing_told() -> Told:
    """Return what a silo answers whose owner tells no counts, without looking at its examples.

    A sum says of how many examples it is, so that such a silo is in no metric, and says that it is
    missing there.
    """
    return Told({}, {protocol.NUM_EXAMPLES: 0, protocol.WITHHELD: 1})


def _without_small(given: Sums, task: Task, least: int) -> Sums:
    sent = dict(given)
    for name, spec in task.sum_specs().items():
        if not spec.real:
            sent[name] = without_small_counts(given[name], least)
    for name, spec in task.sum_specs().items():
        beside = spec.withheld_with
        if beside and not torch.equal(sent[beside], given[beside]):
            sent[name] = torch.zeros_like(given[name])
    return sent


def without_small_counts(counts: Tensor, least: int) -> Tensor:
    """Return counts with 0 in place of each that is above 0 and below `least`.

    What is withheld of one array adds up to `least` too, if need be by withholding the smallest of
    the others: a single small count could be had from the total, which is known.
    """
    kept = counts.clone()
    flat = kept.view(-1)
    order = flat.argsort(stable=True)
    order = order[flat[order] > 0]
    ascending = flat[order]
    small = int((ascending < least).sum())
    if small == 0:
        return kept
    enough = int((ascending.cumsum(0) < least).sum()) + 1
    flat[order[: max(small, enough)]] = 0
    return kept

"""What an evaluation tells of a silo's split: its owner's thresholds, applied where the data is.

Two rules of `policy`, for validation and test alike. A split of fewer than
`evaluated_examples_at_least` examples is answered as if it were empty: all or nothing. With
`cells_at_least` each count that is small, but not 0, is withheld: a 0 is sent in its place, and the
answer says that something is missing, so that whoever prints the metric can say so too.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from client import sums
from client.batches import length
from client.loop import Evaluation
from client.sums import Metrics, Sums
from client.tasks.base import Data, Task
from conf.schema import PolicyConf
from strategies.wire import protocol


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
    sent = _without_small(evaluation.sums, task, least)
    cost = evaluation.cost
    if any(not torch.equal(sent[name], evaluation.sums[name]) for name in sent):
        cost[protocol.WITHHELD] = 1
    return Told(sent, sums.metrics_of(task, sent) | cost)


def statistics_told(task: Task, data: Data, policy: PolicyConf) -> Sums:
    """Return what the owner lets out of the statistics before the first round: small counts are
    withheld as those of an evaluation are.
    """
    given = dict(task.statistics(data))
    specs = task.statistic_specs()
    least = policy.cells_at_least or 1
    sent = {
        name: value if specs[name].real else without_small_counts(value, least)
        for name, value in given.items()
    }
    return {**sent, sums.SIZE: torch.tensor(length(data.train))}


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

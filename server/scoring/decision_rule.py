"""What a finished model says of its outputs: classes, flags or numbers, with probabilities.

A class or flag is said where its score reaches the operating point that the run's validation
examples chose, and probabilities are those at the temperature that they chose. Without them it is
the likeliest class, and a flag that is likelier than not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from client.tasks.base import Task
from client.tasks.kinds.classification import Classification, log_odds
from client.tasks.kinds.multi_label import MultiLabel
from server.run.result import RunResult
from server.scoring.details import points_of


@dataclass(frozen=True)
class DecisionRule:
    """From which score on each class is said, where that was chosen, and what scores are divided by
    before they become probabilities.
    """

    thresholds: dict[str, float] = field(default_factory=dict)
    temperature: float = 1.0

    @staticmethod
    def of(result: RunResult) -> DecisionRule:
        """Return the rule of a finished run; that of a run that chose nothing is the plain one."""
        chosen = result.test.chosen if result.test is not None else {}
        points = {name: point.threshold for name, point in points_of(chosen).items()}
        return DecisionRule(points, chosen.get("temperature") or 1.0)

    def said(self, task: Task, logits: Tensor) -> Iterator[list[Any]]:
        """Yield what is said of each example: a class, flags or a number, and probabilities."""
        if isinstance(task, Classification):
            yield from self._class(task, logits)
        elif isinstance(task, MultiLabel):
            yield from self._flags(task, logits)
        else:
            for value in logits.flatten(1):
                yield _rounded(value)

    def _class(self, task: Classification, logits: Tensor) -> Iterator[list[Any]]:
        classes = task.contract.classes
        guesses = logits.argmax(1)
        # Of several classes each has a point of its own, and an example could reach two.
        threshold = self.thresholds.get(classes[1]) if len(classes) == 2 else None
        if threshold is not None:
            guesses = (log_odds(logits)[:, 1] >= threshold).long()
        shares = (logits / self.temperature).softmax(1)
        for guess, share in zip(guesses, shares, strict=True):
            yield [classes[int(guess)], *_rounded(share)]

    def _flags(self, task: MultiLabel, logits: Tensor) -> Iterator[list[Any]]:
        classes = task.contract.classes
        least = logits.new_tensor([self.thresholds.get(name, 0.0) for name in classes])
        shares = (logits / self.temperature).sigmoid()
        for holds, share in zip(logits >= least, shares, strict=True):
            names = [name for name, held_here in zip(classes, holds, strict=True) if held_here]
            yield ["+".join(names), *_rounded(share)]


def probable(task: Task) -> tuple[str, ...]:
    """Return the classes or flags that have a probability each."""
    if isinstance(task, Classification | MultiLabel):
        return task.contract.classes
    return ()


def _rounded(values: Tensor) -> list[str]:
    return [f"{float(value):.6g}" for value in values]

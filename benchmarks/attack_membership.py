"""Who was in the training: the likelihood ratio attack (Carlini et al. 2022, arXiv 2112.03570).

Each of some models is trained on half of a set; of each example half of the models have it. One model
after another is attacked with the others as shadow models: how sure it is of an example is compared
with how sure those were that had it, and those that had not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from sklearn.metrics import roc_auc_score, roc_curve
from torch import Tensor

from benchmarks.attack_training import Rows, Train, mlp
from client.tasks.kinds.classification import log_odds

HIDDEN = 256
FALSE_ALARMS = 0.01


@dataclass(frozen=True)
class Found:
    """How well members are told from others, and what the models were worth."""

    auc: float
    at_few_alarms: float
    """The share of members found where one in a hundred others is taken for one."""
    accuracy: float
    """On examples that a model was not trained on."""


def halves(models: int, examples: int) -> Tensor:
    """Return which model (models, examples) is trained on which example: each is in half of them."""
    order = torch.rand(models, examples, generator=torch.Generator().manual_seed(7)).argsort(0)
    return order < models // 2


def attacked(task: Rows, train: Train, words: Sequence[str], models: int) -> Found:
    """Train the models in one way, attack each, and return what was found."""
    member = halves(models, len(task.inputs))
    sure = torch.empty(member.shape, dtype=torch.float64)
    right = []
    for number in range(models):
        model = mlp(task, HIDDEN, seed=number)
        train(model, task.some(member[number].nonzero().flatten()), task, words)
        with torch.inference_mode():
            output = model.eval()(task.inputs).double()
        labels = task.labels_of_rows[:, None]
        sure[number] = log_odds(output).gather(1, labels).flatten()
        outside = ~member[number]
        right.append((output.argmax(1) == task.labels_of_rows)[outside].double().mean())
    scores = torch.stack([likelihood_ratio(sure, member, one) for one in range(models)])
    truth = member.flatten().numpy()
    told = scores.flatten().numpy()
    false, true, _ = roc_curve(truth, told)
    few = float(true[false <= FALSE_ALARMS].max())
    return Found(float(roc_auc_score(truth, told)), few, float(torch.stack(right).mean()))


def likelihood_ratio(sure: Tensor, member: Tensor, target: int) -> Tensor:
    """Return a score of each example for having trained a model, by all the others.

    Two normal distributions with one variance each for all examples, as the paper takes them where
    there are few shadow models.
    """
    others = torch.arange(len(sure)) != target
    known = sure[others]
    inside = member[others].double()
    parts = []
    for weight in (inside, 1 - inside):
        mean = (known * weight).sum(0) / weight.sum(0)
        spread = ((known - mean).square() * weight).sum() / weight.sum()
        parts.append(torch.distributions.Normal(mean, spread.sqrt()).log_prob(sure[target]))
    return parts[0] - parts[1]

"""How sure a model of several classes is of the one that it says, at many temperatures: counts that
add up over silos.

Of two classes the scores in bins tell all of this. Of more the probability of the likeliest class
depends on all logits at once, so it is counted where they are, at each temperature that may be
chosen later (Guo et al. 2017, "On Calibration of Modern Neural Networks").

    confidence   int64    (temperatures, parts, 2)  wrong and right guesses, by the probability said
    cooled_loss  float64  (temperatures)            cross-entropy of logits over the temperature
"""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor

from client.tasks.base import LARGEST_LOSS, SumSpec

COUNTS: Final = "confidence"
LOSSES: Final = "cooled_loss"
A_DOUBLING: Final = 8
"""Temperatures from one to its double: they are 9 % apart."""
TEMPERATURES: Final = tuple(2 ** (step / A_DOUBLING) for step in range(-24, 25))
"""From an eighth to eight. 1, a model as it is, is among them to the last bit."""
AS_IT_IS: Final = TEMPERATURES.index(1.0)
PARTS: Final = 120
"""Of the probability from 0 to 1: a multiple of the 15 ranges that are looked at, so fine that a
part's middle stands for what was said in it.
"""


def sums(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Return the counts and losses of logits (n, classes) and their labels (n)."""
    hot = logits.new_tensor(TEMPERATURES, dtype=torch.float32)[:, None]
    scores = logits.float()
    # One temperature at a time would be slower, all of a large batch at once too large.
    whole = torch.stack([(scores / one).logsumexp(1) for one in hot[:, 0]])
    best, guesses = scores.max(1)
    own = scores.gather(1, labels[:, None])[:, 0]
    said = (best / hot - whole).exp()
    right = (guesses == labels).long()
    part = (said * PARTS).long().clamp(max=PARTS - 1)
    row = torch.arange(len(TEMPERATURES), device=logits.device)[:, None]
    cells = (row * PARTS + part) * 2 + right
    shape = (len(TEMPERATURES), PARTS, 2)
    counts = torch.bincount(cells.flatten(), minlength=math.prod(shape)).reshape(shape)
    losses = (whole.double() - own.double() / hot.double()).clamp(min=0, max=_LARGEST).sum(1)
    return {COUNTS: counts, LOSSES: losses}


def specs() -> dict[str, SumSpec]:
    """Return the form of these sums; where counts are withheld, the losses are too."""
    width = len(TEMPERATURES)
    return {
        COUNTS: SumSpec((width, PARTS, 2), at_once=width),
        LOSSES: SumSpec((width,), real=True, high=_LARGEST, withheld_with=COUNTS),
    }


_LARGEST: Final = LARGEST_LOSS / min(TEMPERATURES)

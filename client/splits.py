"""Which of a silo's examples are for training, which for validation and which for the test.

Training examples change the model. Validation examples choose: when to stop, which round's model to
keep, thresholds. Test examples say in the end what the chosen model is worth, and choose nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from client.partition import Indices
from conf.schema import DataConf, Silo
from conf.seeds import seed_for


@dataclass(frozen=True)
class Splits:
    """A silo's examples as sorted indices: disjoint and complete, `train` never empty."""

    train: Indices
    validation: Indices
    test: Indices


def split(mine: Indices, silo: Silo) -> Splits:
    """Return the splits of a silo's examples, drawn from `data.seed` and the silo's name.

    The number held out is `data.validation` + `data.test` of all, rounded, and leaves at least one
    example to train on. With the default shares one or two examples are all trained on, and the
    first one held out (from three on) is a test example.
    """
    order = draw(mine, silo)
    held_out, test = counts(len(mine), silo.data)
    return Splits(
        train=np.sort(order[held_out:]),
        validation=np.sort(order[test:held_out]),
        test=np.sort(order[:test]),
    )


def draw(mine: Indices, silo: Silo) -> Indices:
    """Return a silo's examples in the order in which splits take them: test, validation, train."""
    rng = np.random.default_rng(seed_for(silo.data.seed, silo.name, 0, "held-out"))
    return rng.permutation(mine)


def counts(examples: int, data: DataConf) -> tuple[int, int]:
    """Return how many of so many examples are held out, and how many of those are for the test."""
    held_out = min(rounded((data.validation + data.test) * examples), examples - 1)
    if data.test == 0:
        return held_out, 0
    # Of its own share alone: another share of validation leaves the test examples as they are, so
    # that two such runs are compared on the same ones.
    test = max(rounded(data.test * examples), 1)
    return held_out, min(test, held_out)


def rounded(value: float) -> int:
    """Return the nearest whole number; halves go up."""
    return math.floor(value + 0.5)

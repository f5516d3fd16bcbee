"""Which of a silo's examples are for training, which for validation and which for the test.

Training examples change the model. Validation examples choose: when to stop, which round's model to
keep, thresholds. Test examples say in the end what the chosen model is worth, and choose nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from client.groups import members
from client.partition import Indices
from conf.errors import DataError
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
    first one held out (of three or four) is a test example. With `data.order` nothing is drawn: the
    last are for the test, those before them for validation.
    """
    order = draw(mine, silo) if silo.data.order is None else mine[::-1]
    held_out, test = counts(len(mine), silo.data)
    return Splits(
        train=np.sort(order[held_out:]),
        validation=np.sort(order[test:held_out]),
        test=np.sort(order[:test]),
    )


def split_groups(mine: Indices, silo: Silo, groups: Indices) -> Splits:
    """Return the splits of a silo's examples where each group is in one of them.

    `groups` holds the group of each of `mine`. Groups are taken in an order that is drawn as that
    of examples is; each goes to the test, else to validation, where half of it still fits into
    what is missing there, else to training. So the shares are met to about half a group. Where
    that leaves a split empty that should not be, it gets the smallest of the groups for training,
    first the test; at least one group is for training. Raises DataError MDW-223 where all examples are
    of one group and some should be held out.
    """
    of_groups = members(groups)
    wanted = {"test": silo.data.test * len(mine), "validation": silo.data.validation * len(mine)}
    if len(of_groups) == 1 and any(wanted.values()):
        raise DataError(
            "MDW-223",
            f"All examples of {silo.name} are of one group of data.group={silo.data.group}:"
            " none can be held out.",
            "Group by something else, or set data.validation=0 data.test=0 for this silo.",
        )
    taken: dict[str, list[Indices]] = {"test": [], "validation": [], "train": []}
    missing = dict(wanted)
    order = draw(np.arange(len(of_groups)), silo)
    for number in order:
        group = of_groups[number]
        name = _place(len(group), missing)
        if number == order[-1] and not taken["train"]:
            name = "train"
        taken[name].append(group)
        if name in missing:
            missing[name] -= len(group)
    for name in wanted:
        if wanted[name] > 0 and not taken[name] and len(taken["train"]) > 1:
            sizes = [len(group) for group in taken["train"]]
            taken[name].append(taken["train"].pop(int(np.argmin(sizes))))
    return Splits(**{name: np.sort(mine[_joined(parts)]) for name, parts in taken.items()})


def _place(size: int, missing: dict[str, float]) -> str:
    """Return the split that a group of so many examples goes to."""
    for name, examples in missing.items():
        if examples > 0 and examples >= size / 2:
            return name
    return "train"


def _joined(parts: list[Indices]) -> Indices:
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


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
    test = rounded(data.test * examples)
    if test == 0 and held_out > rounded(data.validation * examples):
        # Neither share makes an example of so few, both together do.
        test = 1
    return held_out, min(test, held_out)


def rounded(value: float) -> int:
    """Return the nearest whole number; halves go up."""
    return math.floor(value + 0.5)

"""What a silo protects as one under sample-level privacy: its units (`privacy.unit`).

A unit is an example, or all examples of a group that the silo's owner has named by `data.group`: a
patient, an account, a document. Groups are never split between training and tests, so that a unit is
trained on as a whole or not at all.

The guarantee for a group could be had of one for examples as well, by paying for as many examples as
the largest group has: for k examples k times epsilon and more, or k times the noise. Here a group is
what is drawn, clipped and counted instead (user-level sampling; Charles et al. 2024, arXiv 2407.07737):
its gradient is the mean of those of its examples, of the norm `privacy.clip_norm` at most, so that the
noise is that of one example, whatever the group's size. A mean and not a sum, so that a norm that is
right for examples is right for groups, and a group of many examples weighs as one of few.

How many examples of a group a step looks at is bounded (`privacy.examples_per_unit`), for time and
memory alone. Which ones is drawn anew each time the group is drawn, of the group's own examples and of
the operating system's randomness: it depends on no other group, so that it moves no other group's
gradient, and no example is left out for good.

    MDW-340 more of a group at once than the machine takes     MDW-364 examples that have no groups
"""

from __future__ import annotations

import numpy as np

from client.batches import length
from client.groups import numbered
from client.partition import Indices
from client.tasks.base import Data
from conf.errors import SiloError
from conf.privacy_kinds import GROUP
from conf.schema import PrivacyConf, SampleDpConf, Silo


def check(privacy: PrivacyConf, silo: Silo) -> None:
    """Raise SiloError MDW-340 or 364 where a silo has no such units, before its data is read."""
    if not _of_groups(privacy):
        return
    assert isinstance(privacy, SampleDpConf)
    if silo.data.group is None:
        raise _without_groups(silo, "its owner has not said which examples are of one")
    limit = silo.batch_size_at_most
    most = privacy.examples_per_unit
    if limit is not None and most > limit:
        raise SiloError(
            "MDW-340",
            f"{silo.name} takes at most {limit} examples at once, not {most} of a group.",
            f"Set privacy.examples_per_unit={limit}, or less.",
            {"refused": f"privacy.examples_per_unit={most} (allowed: at most {limit})"},
        )


def units_of(privacy: PrivacyConf, data: Data, silo: Silo) -> Indices | None:
    """Return the group of each example that a silo trains on, as numbers from 0; None where each is
    one by itself.

    Raises SiloError MDW-364 where the task does not say it of each.
    """
    if not _of_groups(privacy):
        return None
    if data.groups is None:
        raise _without_groups(silo, "the task does not say which examples are of one")
    groups = np.asarray(data.groups)
    examples = length(data.train)
    if groups.shape != (examples,):
        why = f"the task gives {groups.shape} of them for {examples} examples"
        raise _without_groups(silo, why)
    return numbered(groups)


def count_of(units: Indices) -> int:
    """Return how many groups there are among examples."""
    return len(np.unique(units))


def _of_groups(privacy: PrivacyConf) -> bool:
    return isinstance(privacy, SampleDpConf) and privacy.unit == GROUP


def _without_groups(silo: Silo, why: str) -> SiloError:
    return SiloError(
        "MDW-364",
        f"privacy.unit=group: {silo.name} knows no groups of examples, because {why}.",
        "Its owner sets data.group to a column or pattern; a task of one's own gives Data.groups.",
    )

"""What a silo's owner allows all releases together to cost: each example or group, and the silo as a
whole.

MDW-373 a release would cost more than is left
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Protocol

from client.privacy import accountant
from client.privacy.accountant import Release
from conf.errors import SiloError
from conf.privacy_kinds import AS_NOTED, REPLACED, SILO, SUMS
from conf.schema import PolicyConf


class Counted(Protocol):
    """One release of an account (`client.privacy.account.Entry`)."""

    @property
    def mechanism(self) -> str:
        """The kind of privacy that it is of."""

    @property
    def unit(self) -> str:
        """What it protects as a whole."""

    @property
    def release(self) -> Release:
        """What the accountant counts."""


def is_counted(entry: Counted, unit: str) -> bool:
    """Return whether a release says what it costs each `unit`."""
    return (entry.mechanism, entry.unit) in SUMS[unit]


def cost(entries: Iterable[Counted], unit: str, delta: float) -> float:
    """Return what releases have cost each `unit` together, of those that say it."""
    how = SUMS[unit]
    found: dict[str, list[Release]] = {AS_NOTED: [], REPLACED: []}
    for entry in entries:
        if is_counted(entry, unit):
            found[how[entry.mechanism, entry.unit]].append(entry.release)
    return accountant.epsilon(found[AS_NOTED], delta, found[REPLACED])


def check(policy: PolicyConf, before: Iterable[Counted], after: Counted, silo: str) -> None:
    """Raise SiloError MDW-373 where a release on top of others costs more than an owner allows."""
    before = list(before)
    of_units = f"each {policy.unit_at_least}"
    bounds = (
        ("epsilon_at_most", policy.epsilon_at_most, policy.unit_at_least, of_units),
        ("silo_epsilon_at_most", policy.silo_epsilon_at_most, SILO, "the silo as a whole"),
    )
    for key, most, unit, what in bounds:
        if most is None:
            continue
        together = math.inf
        if is_counted(after, unit):
            together = cost([*before, after], unit, policy.delta)
        if together <= most:
            continue
        spent = cost(before, unit, policy.delta)
        raise SiloError(
            "MDW-373",
            f"{silo} has spent an epsilon of {spent:.3f} of the {most:g} that its owner allows for"
            f" {what} (at delta {policy.delta:g}), and this round would make it {together:.3f}.",
            f"Ask for more noise or fewer rounds, or talk to the owner (policy.{key}).",
            {"allowed": f"{most:g}"},
        )

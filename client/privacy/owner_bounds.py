"""What a silo's owner allows all releases together to cost: each example, and the silo as a whole.

MDW-373 a release would cost more than is left
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from typing import Protocol

from client.privacy import accountant
from client.privacy.accountant import Release
from conf.errors import SiloError
from conf.privacy_kinds import OF_EXAMPLES, OF_SILOS
from conf.schema import PolicyConf


class Counted(Protocol):
    """One release of an account (`client.privacy.account.Entry`)."""

    @property
    def mechanism(self) -> str:
        """The kind of privacy that it is of."""

    @property
    def release(self) -> Release:
        """What the accountant counts."""


def releases_of(entries: Iterable[Counted], kinds: Collection[str]) -> list[Release]:
    """Return what counts in a sum: of examples (`OF_EXAMPLES`), or of the silo (`OF_SILOS`)."""
    return [entry.release for entry in entries if entry.mechanism in kinds]


def check(
    policy: PolicyConf,
    before: Iterable[Counted],
    release: Release,
    mechanism: str,
    silo: str,
) -> None:
    """Raise SiloError MDW-373 where a release on top of others costs more than an owner allows."""
    before = list(before)
    bounds = (
        ("epsilon_at_most", policy.epsilon_at_most, OF_EXAMPLES, "each example"),
        ("silo_epsilon_at_most", policy.silo_epsilon_at_most, OF_SILOS, "the silo as a whole"),
    )
    for key, most, kinds, what in bounds:
        if most is None:
            continue
        counted = releases_of(before, kinds)
        cost = math.inf
        if mechanism in kinds:
            cost = accountant.epsilon([*counted, release], policy.delta)
        if cost <= most:
            continue
        spent = accountant.epsilon(counted, policy.delta)
        raise SiloError(
            "MDW-373",
            f"{silo} has spent an epsilon of {spent:.3f} of the {most:g} that its owner allows for"
            f" {what} (at delta {policy.delta:g}), and this round would make it {cost:.3f}.",
            f"Ask for more noise or fewer rounds, or talk to the owner (policy.{key}).",
            {"allowed": f"{most:g}"},
        )

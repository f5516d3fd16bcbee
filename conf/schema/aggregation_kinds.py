"""How much of the silos' updates the server sees while it adds them up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from conf.fields import one_of

WEAKEST_FIRST: Final = ("plain",)
"""Kinds of aggregation, each of which shows the server no more than the one before it."""


@dataclass
class AggregationConf:
    """The kind of aggregation; what its owner asks at least is in a silo's policy."""

    name: str = one_of(
        *WEAKEST_FIRST, help="the kind of aggregation: plain = the server sees each silo's update"
    )

"""How many updates a rule over a whole round needs, for the liars that it is to bear.

Each rule has a breakdown point: with `f` liars it needs at least `a * f + b` rows. A row is an
update, or with `strategy.bucket=s` the mean of s of them; a liar spoils one row, whichever it is in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from conf.errors import ConfigError
from conf.schema import CohortRuleConf, Conf, StrategyConf

Where = Callable[[str], str]
"""Says where a key got its value: a file, or the command line."""

ROWS: Final = {
    "median": (2, 1),
    "trimmed_mean": (2, 1),
    "krum": (2, 3),
    "multikrum": (2, 3),
    "bulyan": (4, 3),
    "geometric_median": (2, 1),
    "centered_clipping": (2, 1),
}
"""By rule: a and b of the least number of rows, a * f + b."""


def fewest_rows(rule: str, f: int) -> int:
    """Return how many rows a rule needs to bear `f` liars."""
    slope, offset = ROWS[rule]
    return slope * f + offset


def fewest_updates(rule: str, f: int, bucket: int) -> int:
    """Return how many updates make that many rows: all buckets but the last are full."""
    return bucket * (fewest_rows(rule, f) - 1) + 1


def needed_by(strategy: StrategyConf) -> int:
    """Return how many updates a round of this strategy needs; 1 where any number will do."""
    if not isinstance(strategy, CohortRuleConf):
        return 1
    return fewest_updates(strategy.name, strategy.f, strategy.bucket)


def check(conf: Conf, where: Where) -> None:
    """Raise ConfigError MDW-105 where a round can't have as many updates as the rule needs."""
    rule = conf.strategy
    if not isinstance(rule, CohortRuleConf):
        return
    silos = len(conf.federation.silos) or conf.federation.size
    key = "run.cohort" if conf.run.cohort else "federation.size"
    check_enough(rule.name, rule.f, rule.bucket, conf.run.cohort or silos, f"{key} ({where(key)})")
    quorum = conf.run.quorum
    if quorum is not None:
        source = f"run.quorum ({where('run.quorum')})"
        check_enough(rule.name, rule.f, rule.bucket, quorum, source)


def check_enough(rule: str, f: int, bucket: int, updates: int, source: str) -> None:
    """Raise ConfigError MDW-105 where so few updates a round are too few for a rule.

    `source` is what says how many there are.
    """
    needed = fewest_updates(rule, f, bucket)
    if updates >= needed:
        return
    made = f"strategy={rule} strategy.f={f}"
    if bucket > 1:
        made += f" strategy.bucket={bucket}"
    raise ConfigError(
        "MDW-105",
        f"{made} needs {needed} updates a round, and {source} says {updates}.",
        "Ask more silos, lower strategy.f or strategy.bucket, or choose a rule that needs fewer"
        " (docs/robust.md).",
    )

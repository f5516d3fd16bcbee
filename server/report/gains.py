"""What each silo gained or lost by federating: on its own test examples, beside its model alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from server.run.result import RunResult
from server.run.shown import headline_of, is_less_better, value_of, written

MOST_ROWS: Final = 100


@dataclass(frozen=True)
class Gain:
    """One silo: the federated model and its own alone on its own test examples, what federating
    changed, and how long a bar that is (-1 to 1 of the longest).
    """

    silo: str
    federated: str
    alone: str
    change: str
    share: float


@dataclass(frozen=True)
class Gains:
    """The silos by what they gained, the most first, and how many of them did."""

    metric: str
    rows: list[Gain]
    better: int
    worse: int
    left_out: int


def gains(result: RunResult) -> Gains | None:
    """Return what each silo gained; None of a run that trained no silo alone."""
    baseline = result.baseline
    if baseline is None:
        return None
    name = headline_of(result.shown, baseline.federated.union)
    if name is None:
        return None
    sign = -1 if is_less_better(result.shown, name) else 1
    found = []
    for silo, scores in baseline.silo_alone.items():
        alone = value_of(scores.by_silo.get(silo, {}), name)
        federated = value_of(baseline.federated.by_silo.get(silo, {}), name)
        if alone is not None and federated is not None:
            found.append((sign * (federated - alone), silo, federated, alone))
    if not found:
        return None
    found.sort(key=lambda one: (-one[0], one[1]))
    most = max(abs(change) for change, *_ in found) or 1.0
    rows = [
        Gain(silo, written(federated), written(alone), _signed(change), change / most)
        for change, silo, federated, alone in found[:MOST_ROWS]
    ]
    better = sum(change > 0 for change, *_ in found)
    worse = sum(change < 0 for change, *_ in found)
    return Gains(name, rows, better, worse, len(found) - len(rows))


def _signed(change: float) -> str:
    sign = "+" if change > 0 else "−" if change < 0 else ""
    return f"{sign}{written(abs(change))}"

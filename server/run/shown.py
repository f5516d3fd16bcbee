"""The metrics that a run shows: their order, which way is better, and how they are written.

A task names them (`Task.shown`); a run keeps them in its result, so that a page, a table or a card
of it can be made where no task can be loaded: of a run of another machine, say. The first of them
is the headline.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from server.run.result import FinalTest

Better = Literal["max", "min"]
Shown = Mapping[str, str]
"""By name, in the task's order: whether more ("max") or less ("min") of a metric is better."""
Known = Mapping[str, float | None]
"""Metrics by name; what was NaN or infinite is None once it was written to JSON and read."""

LOSS_ALONE: Final[Mapping[str, str]] = {"loss": "min"}
"""What a task shows that says nothing else."""
NOT_KNOWN: Final = "–"
ERROR: Final = "_error"
"""Suffix of a metric that bounds the error of another one, such as `auprc_error` of `auprc`."""
NOISE: Final = "_noise"
"""Suffix of the standard deviation that noise gives another metric (`client.privacy.noised_sums`, which
imports torch).
"""
MOST_NAMES: Final = 10
"""Silos that a note names."""
CENTRAL: Final = "central_"
"""Prefix of a metric on the task's own test set, which the server scores itself."""


def value_of(metrics: Known, name: str) -> float | None:
    """Return a metric's value; None where it is not there or not finite."""
    value = metrics.get(name)
    return value if value is not None and math.isfinite(value) else None


def known(metrics: Iterable[Known], name: str) -> list[float]:
    """Return the values of a metric where it is there and finite."""
    values = (value_of(one, name) for one in metrics)
    return [value for value in values if value is not None]


def headline_of(shown: Shown, metrics: Known) -> str | None:
    """Return the first shown metric that has a value; None where there is none."""
    return next((name for name in shown if value_of(metrics, name) is not None), None)


def present(shown: Shown, metrics: Known) -> list[str]:
    """Return the shown metrics that have a value, in the task's order."""
    return [name for name in shown if value_of(metrics, name) is not None]


def in_order(shown: Shown, metrics: Known) -> list[str]:
    """Return the names of all metrics: the shown ones first, then the others by name.

    A bound on an error is not among them, nor a deviation: it is written beside its metric (`score`).
    """
    others = metrics.keys() - shown.keys()
    bounds = {
        name
        for name in others
        for suffix in (ERROR, NOISE)
        if name.removesuffix(suffix) in metrics.keys() - {name}
    }
    return [*(name for name in shown if name in metrics), *sorted(others - bounds)]


def is_less_better(shown: Shown, name: str) -> bool:
    """Return whether less of a metric is better."""
    return shown.get(name) == "min"


def best(shown: Shown, name: str, values: Iterable[float]) -> float:
    """Return the best of some values of a metric; raises ValueError where there are none."""
    return min(values) if is_less_better(shown, name) else max(values)


def direction(shown: Shown, name: str) -> str:
    """Return in words which way a metric is better."""
    return "lower is better" if is_less_better(shown, name) else "higher is better"


def in_words(name: str) -> str:
    """Return a metric's name as it stands in a sentence."""
    return name.replace("_", " ")


def written(value: float | None, digits: int = 3) -> str:
    """Return a value for people: `digits` decimals, fewer of a large one, more of a tiny one."""
    if value is None or not math.isfinite(value):
        return NOT_KNOWN
    size = abs(value)
    if size >= 1e9:
        return f"{value:.3g}"
    if size >= 1000:
        return f"{value:,.0f}"
    if size >= 10:
        return f"{value:.{max(digits - 1, 1)}f}"
    if size == 0 or size >= 10.0**-digits:
        return f"{value:.{digits}f}"
    return f"{value:.2g}"


def score(metrics: Known, name: str | None, digits: int = 3) -> str:
    """Return a metric of some metrics for people, with the bound on its error, or the deviation that
    noise gives it, where it has one that could move the last digit; a dash where it is not known.
    """
    if name is None:
        return NOT_KNOWN
    value = value_of(metrics, name)
    bound = value_of(metrics, f"{name}{NOISE}") or value_of(metrics, f"{name}{ERROR}")
    if value is None or not bound or bound < 0.05 * 10.0**-digits:
        return written(value, digits)
    return f"{written(value, digits)} ± {_rounded_up(bound)}"


def partial_note(partial: Sequence[str]) -> str:
    """Return what to say beside metrics of a union that lack some silos' counts; empty where they
    lack none.
    """
    if not partial:
        return ""
    names = ", ".join(partial[:MOST_NAMES])
    more = f" and {len(partial) - MOST_NAMES} more" if len(partial) > MOST_NAMES else ""
    return f"partial: {names}{more} withheld counts"


def partial_sentence(test: FinalTest | None, whose: str = "") -> str:
    """Return a sentence that says which metrics of a test lack some silos' counts; empty where none
    does.

    `whose` names the run where several are put side by side (" of first"). A silo without metrics of
    its own withheld everything, so that the loss lacks it too.
    """
    note = partial_note(test.partial) if test is not None else ""
    if test is None or not note:
        return ""
    but = " but the loss" if test.metrics.keys() >= set(test.partial) else ""
    return f"All metrics{whose}{but} are {note}."


def _rounded_up(bound: float) -> str:
    """Return a bound with one digit that means something, never less than it is."""
    scale = 10.0 ** math.floor(math.log10(abs(bound)))
    up = math.ceil(round(abs(bound) / scale, 6)) * scale
    return f"{up:.1g}"

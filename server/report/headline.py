"""A run in one sentence, and what its comparison means: by the first metric that its task shows."""

from __future__ import annotations

import math
from typing import Final

from server.run.result import Baseline, RunResult
from server.run.shown import (
    CENTRAL,
    Known,
    best,
    direction,
    headline_of,
    in_words,
    is_less_better,
    known,
    score,
    value_of,
    written,
)

EXAMPLES: Final = "test examples"
"""On which the model of a run that went to its end is measured."""
EXAMPLES_OF_ROUNDS: Final = "validation examples"
"""On which each round's model is measured, and that of a run that was stopped."""


def headline(result: RunResult, last: Known) -> str:
    """Return the run in one sentence; `last` are the metrics of its last round, for a run that has
    no final ones.
    """
    done = f"{result.rounds} round{'' if result.rounds == 1 else 's'}"
    if result.status == "failed":
        return f"The run failed after {done}"
    if result.baseline is not None:
        name = headline_of(result.shown, result.baseline.federated.union)
        if name is not None:
            return _compared(result, result.baseline, name)
    said = _worth(result, last)
    if result.status == "interrupted":
        stopped = f"The run was stopped after {done}"
        return f"{stopped}; {said[0].lower()}{said[1:]}" if said else stopped
    members = f"{len(result.silos)} silo{'' if len(result.silos) == 1 else 's'}"
    return said or f"{members} trained {done} together"


def verdict(result: RunResult) -> str:
    """Return what the comparison means, where there is one: the share of pooling's gain that
    federating kept.
    """
    baseline = result.baseline
    if baseline is None or baseline.centralised is None:
        return ""
    name = headline_of(result.shown, baseline.federated.union)
    if name is None:
        return ""
    federated = value_of(baseline.federated.union, name)
    pooled = value_of(baseline.centralised.union, name)
    alone = known([scores.union for scores in baseline.silo_alone.values()], name)
    if federated is None or pooled is None or not alone:
        return ""
    best_alone = best(result.shown, name, alone)
    if is_less_better(result.shown, name):
        # Of what is better when less, the gain is how much it falls.
        return _verdict_of(-federated, -pooled, -best_alone)
    return _verdict_of(federated, pooled, best_alone)


def final_value(result: RunResult, last: Known) -> tuple[str, float] | None:
    """Return the name and value of the headline metric at the end, of the silos' examples, or
    otherwise of the task's own test set; None where neither is known.
    """
    measured: Known = result.final or last
    for prefix in ("", CENTRAL):
        metrics: Known = {name: value_of(measured, f"{prefix}{name}") for name in result.shown}
        name = headline_of(result.shown, metrics)
        if name is not None:
            value = metrics[name]
            assert value is not None
            return f"{prefix}{name}", value
    return None


def _compared(result: RunResult, baseline: Baseline, name: str) -> str:
    parts = [_sentence(name, score(baseline.federated.union, name), EXAMPLES, result)]
    alone = known([scores.union for scores in baseline.silo_alone.values()], name)
    if alone:
        parts.append(f"the best silo alone {written(best(result.shown, name, alone))}")
    pooled = baseline.centralised.union if baseline.centralised else {}
    if value_of(pooled, name) is not None:
        parts.append(f"a model of all data pooled {score(pooled, name)}")
    return "; ".join(parts)


def _worth(result: RunResult, last: Known) -> str:
    final = final_value(result, last)
    if final is None:
        return ""
    name = final[0]
    written_value = score(result.final or last, name)
    if name.startswith(CENTRAL):
        return _sentence(name.removeprefix(CENTRAL), written_value, "the task's test set", result)
    where = EXAMPLES if result.final else EXAMPLES_OF_ROUNDS
    return _sentence(name, written_value, where, result)


def _sentence(name: str, value: str, where: str, result: RunResult) -> str:
    less = f" ({direction(result.shown, name)})" if is_less_better(result.shown, name) else ""
    return f"The federated model has {in_words(name)} {value} on {where}{less}"


def _verdict_of(federated: float, pooled: float, best_alone: float) -> str:
    """Return the verdict for three values of which more is better."""
    if federated <= best_alone:
        return "Federating brought nothing here: a silo that trained alone did at least as well."
    if pooled <= best_alone:
        return "Federating did better than any silo alone, and better than all data pooled."
    kept = (federated - best_alone) / (pooled - best_alone)
    if kept >= 1:
        return "Federating brought all that pooling the data would have, without moving them."
    return (
        "Of what pooling all data would gain over the best silo alone, federating brought"
        f" {math.floor(100 * kept)}%, without moving the data."
    )

"""What a run has cost the silos or their examples, as each silo counts it itself, or as the server
does where the noise is its own.

What a silo counts the server can't recompute: it knows neither how many examples a silo has nor its
other runs.

    MDW-387 an audit proves more than the accountant allows
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from importlib import metadata
from typing import Any, Final

from client.privacy.metrics_plan import planned
from conf.privacy_kinds import (
    ADD_OR_REMOVE_ONE,
    CALLED,
    EXAMPLE,
    GROUP,
    NOISED_METRICS,
    RELATIONS,
    SAMPLE_DP,
    SILO_DP,
)
from conf.schema import NoisyConf, PrivacyConf, SampleDpConf
from server.run.result import FinalTest, Metrics, RoundRecord
from strategies.wire import protocol

Facts = dict[str, Any]
_CLIPPED: Final = {EXAMPLE: "gradient", GROUP: "mean gradient"}
_PAYS_AGAIN: Final = {
    EXAMPLE: "a person with several examples pays for each, and one known to k silos k times",
    GROUP: "a group is all examples that a silo's owner has named as one (data.group: a patient, an"
    " account); one that k silos know pays k times",
}

ACCOUNTANT: Final = "privacy loss distributions; Rényi divergences beside them"
SERVER: Final = "server"
SILOS: Final = "silos"
"""By whom a run's cost is counted."""
MOST_NAMED: Final = 12
"""Silos named in a sentence; result.json has all."""


def told_by_silos(record: RoundRecord) -> dict[str, Metrics]:
    """Return what the run has cost so far at each silo whose update of a round counts, as it says."""
    found = {}
    for silo, metrics in sorted(record.train.items()):
        if protocol.EPSILON in metrics:
            found[silo] = {
                "epsilon": metrics[protocol.EPSILON],
                "epsilon_renyi": metrics.get(protocol.RENYI_EPSILON, math.nan),
                "noise_multiplier": metrics.get(protocol.NOISE, math.nan),
            }
    return found


def note_evaluation(record: RoundRecord, silo: str, spent: Mapping[str, float]) -> None:
    """Note what the run has cost at a silo after its evaluation, where that has cost something."""
    if spent and silo in record.train:
        record.train[silo] |= {
            protocol.EPSILON: spent["epsilon"],
            protocol.RENYI_EPSILON: spent.get("epsilon_renyi", math.nan),
        }


def after_test(facts: Facts, test: FinalTest) -> Facts:
    """Return what a result says of the run's privacy after the test at its end."""
    silos = dict(facts.get("silos", {}))
    for silo, spent in test.privacy.items():
        if silo in silos:
            silos[silo] = {**silos[silo], **spent}
    return {**facts, "silos": silos} if test.privacy else facts


def spent_in(record: RoundRecord) -> dict[str, float]:
    """Return epsilon so far by silo, as of a round."""
    return {silo: spent["epsilon"] for silo, spent in sorted(record.privacy.items())}


def told_of(
    privacy: PrivacyConf,
    before: Mapping[str, Any],
    record: RoundRecord,
    mean: Mapping[str, float] | None = None,
    rounds: int = 1,
) -> Facts:
    """Return what a result says of the run's privacy after a round; nothing without any.

    `mean` is what there is to say of the noise in the mean, where the server adds it; `rounds` are
    those of the run.
    """
    if not isinstance(privacy, NoisyConf):
        return {}
    kind = privacy.name
    return {
        "kind": kind,
        "guarantee": privacy.test_seed is None,
        "unit": privacy.protects,
        **_of_groups(privacy),
        "relation": RELATIONS[kind],
        "mechanism": CALLED[kind],
        "counted_by": SERVER if kind == SILO_DP else SILOS,
        "accountant": ACCOUNTANT,
        "versions": _versions(kind),
        "delta": privacy.delta,
        "clip_norm": privacy.clip_norm,
        "clipping": getattr(privacy, "clipping", "fixed"),
        **({"mean": dict(mean)} if mean else {}),
        **_metrics_told(privacy, rounds),
        "silos": {**before.get("silos", {}), **record.privacy},
    }


def _of_groups(privacy: PrivacyConf) -> Facts:
    if not isinstance(privacy, SampleDpConf) or privacy.unit != GROUP:
        return {}
    return {"examples_per_unit": privacy.examples_per_unit}


def _metrics_told(privacy: NoisyConf, rounds: int) -> Facts:
    """Return what a result says of metrics that were told with noise; nothing where none were."""
    if not isinstance(privacy, SampleDpConf) or not privacy.noises_metrics:
        return {}
    told = {
        "mechanism": CALLED[NOISED_METRICS],
        "epsilon": privacy.metrics_epsilon,
        "evaluations": planned(privacy, rounds),
        "loss_at_most": privacy.metrics_loss_at_most,
    }
    return {"metrics": told}


def _versions(kind: str) -> dict[str, str]:
    names = ("dp-accounting", "opacus") if kind == SAMPLE_DP else ("dp-accounting",)
    found = {}
    for name in names:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def sentences(facts: Mapping[str, Any]) -> list[str]:
    """Return what a reader is to know of a run's privacy, most important first; nothing without any."""
    silos = facts.get("silos", {})
    if not silos:
        return []
    most = max(silos, key=lambda silo: _epsilon(silos[silo]))
    unit = facts["unit"]
    said = [
        f"{_called(facts)}: epsilon {_short(silos[most]['epsilon'])} at delta"
        f" {facts['delta']:g} at {most}, which spent most, {_neighbours(facts)}",
        f"epsilon of this run by silo, {_counted_by(facts)}: {_each(silos)}; by Rényi divergences at"
        f" most {_short(max(_renyi(one) for one in silos.values()))}",
        f"each {unit}'s {_CLIPPED.get(unit, 'change')} clipped to"
        f" {facts['clip_norm']:g} ({facts['clipping']})",
        *_of_the_mean(facts),
        *_of_metrics(facts),
        *_pays_again(unit),
        "what else left the silos, and what is not covered: docs/privacy.md",
    ]
    if not facts["guarantee"]:
        said.insert(0, "no guarantee: draws and noise had a seed (privacy.test_seed)")
    return of_audit(facts) + said


def of_audit(privacy: Mapping[str, Any]) -> list[str]:
    """Return what a reader is to know of an audit, most important first; nothing without one."""
    found = privacy.get("audit")
    if not found:
        return []
    said = [
        f"audit: epsilon is at least {found['epsilon_at_least']:.3f} at {found['silo']} (with"
        f" {found['confidence']:.0%} confidence at delta {privacy['delta']:g}:"
        f" {found['correct']} of {found['guesses']} guesses about {found['canaries']} canaries were"
        f" right), and at most {found['epsilon_at_most']:.3f} by the accountant",
        f"{found['canaries']} of {found['silo']}'s examples gave way to canaries: this model is for"
        " the audit alone, because they are mixed of its other examples, which have no guarantee",
    ]
    if not found["holds"]:
        what = "MDW-387: the audit proves a larger epsilon than the accountant allows"
        said.insert(0, f"{what}: the guarantee does not hold")
    return said


def _called(facts: Mapping[str, Any]) -> str:
    # A result of an earlier release says less; there was one kind.
    kind = str(facts.get("kind", SAMPLE_DP))
    return CALLED.get(kind, kind)


def _neighbours(facts: Mapping[str, Any]) -> str:
    if facts.get("relation", ADD_OR_REMOVE_ONE) == ADD_OR_REMOVE_ONE:
        return f"of one {facts['unit']} more or less"
    return f"of one {facts['unit']} with any other data"


def _counted_by(facts: Mapping[str, Any]) -> str:
    return "as the server counts it" if facts.get("counted_by") == SERVER else "as each counts it"


def _each(silos: Mapping[str, Any]) -> str:
    shown = sorted(silos.items())[:MOST_NAMED]
    more = f" and {len(silos) - len(shown)} more" if len(silos) > len(shown) else ""
    return ", ".join(f"{silo} {_short(spent['epsilon'])}" for silo, spent in shown) + more


def _of_the_mean(facts: Mapping[str, Any]) -> list[str]:
    """Return how large the noise in the mean was beside the step that it is in."""
    mean = facts.get("mean")
    if not mean:
        return []
    return [
        f"noise of {mean['deviation']:.3g} in each weight of the last round's mean, of norm"
        f" {mean['noise_norm']:.3g} in all, beside changes of at most {mean['clip_norm']:.3g}"
    ]


def _of_metrics(facts: Mapping[str, Any]) -> list[str]:
    """Return what the metrics of the silos are made of, where they were told with noise."""
    told = facts.get("metrics")
    if not told:
        return []
    return [
        f"metrics of the silos' examples: made of {told['mechanism']}, which take an epsilon of"
        f" {told['epsilon']:g} of it for {told['evaluations']} evaluations; what stands behind ± is"
        " the standard deviation of that noise",
        "metrics that need more sums than these are not told",
    ]


def _pays_again(unit: str) -> list[str]:
    return [_PAYS_AGAIN[unit]] if unit in _PAYS_AGAIN else []


def _epsilon(spent: Mapping[str, Any]) -> float:
    return math.inf if spent["epsilon"] is None else float(spent["epsilon"])


def _renyi(spent: Mapping[str, Any]) -> float:
    found = spent.get("epsilon_renyi")
    return 0.0 if found is None or math.isnan(found) else float(found)


def _short(value: object) -> str:
    return "without bound" if value is None else f"{float(str(value)):.3f}"

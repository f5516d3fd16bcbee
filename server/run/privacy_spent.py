"""What a run has cost the silos' examples, as each silo counts it itself.

The server can't recompute it: it knows neither how many examples a silo has nor its other runs.

    MDW-387 an audit proves more than the accountant allows
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from conf.schema import PrivacyConf, SampleDpConf
from server.run.result import RoundRecord
from strategies.wire import protocol

Facts = dict[str, Any]


def spent_in(record: RoundRecord) -> dict[str, float]:
    """Return what the run has cost so far at each silo whose update of a round counts."""
    said = {silo: metrics.get(protocol.EPSILON) for silo, metrics in record.train.items()}
    return {silo: value for silo, value in sorted(said.items()) if value is not None}


def told_of(privacy: PrivacyConf, before: Mapping[str, Any], record: RoundRecord) -> Facts:
    """Return what a result says of the run's privacy after a round; nothing without any."""
    if not isinstance(privacy, SampleDpConf):
        return {}
    known: Facts = dict(before.get("silos", {}))
    for silo, value in spent_in(record).items():
        known[silo] = {
            "epsilon": value,
            "epsilon_renyi": record.train[silo].get(protocol.RENYI_EPSILON),
            "noise_multiplier": record.train[silo].get(protocol.NOISE),
        }
    return {
        "kind": privacy.name,
        "guarantee": privacy.test_seed is None,
        "unit": "example",
        "relation": "add-or-remove-one",
        "delta": privacy.delta,
        "clip_norm": privacy.clip_norm,
        "clipping": privacy.clipping,
        "silos": known,
    }


def sentences(facts: Mapping[str, Any]) -> list[str]:
    """Return what a reader is to know of a run's privacy, most important first; nothing without any."""
    silos = facts.get("silos", {})
    if not silos:
        return []
    most = max(silos, key=lambda silo: float(silos[silo]["epsilon"]))
    each = ", ".join(f"{silo} {_short(spent['epsilon'])}" for silo, spent in sorted(silos.items()))
    said = [
        f"sample-level (DP-SGD): epsilon {_short(silos[most]['epsilon'])} at delta"
        f" {facts['delta']:g} at {most}, which spent most, of one {facts['unit']} more or less",
        f"epsilon of this run by silo, as each counts it: {each}; by Rényi divergences at most"
        f" {_short(max(float(one['epsilon_renyi'] or 0) for one in silos.values()))}",
        f"each {facts['unit']}'s gradient clipped to {facts['clip_norm']:g} ({facts['clipping']})",
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
        " the audit alone",
    ]
    if not found["holds"]:
        what = "MDW-387: the audit proves a larger epsilon than the accountant allows"
        said.insert(0, f"{what}: the guarantee does not hold")
    return said


def _short(value: object) -> str:
    return f"{float(str(value)):.3f}"

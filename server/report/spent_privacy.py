"""What the report says of a run's privacy: to whom what is guaranteed, and what each round had cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from server.report.drawing import RANGE, LineStyle, line_style
from server.report.overview import MOST_LINES, Point
from server.report.privacy_plots import epsilon_curve, titled, worth, worth_of_epsilon
from server.report.tables import MOST_ROWS
from server.run.privacy_spent import sentences
from server.run.result import RunResult
from server.run.shown import CENTRAL, headline_of, written

FEWEST_POINTS: Final = 2
"""Rounds below which there is no curve to see."""


@dataclass(frozen=True)
class SpentPrivacy:
    """One section of the page."""

    said: Sequence[str]
    facts: Sequence[tuple[str, str]]
    rows: Sequence[tuple[str, str, str, str]]
    """Of each silo: its name, epsilon, epsilon by Rényi divergences, and its noise."""
    left_out: int
    pictures: Sequence[tuple[str, str]]
    """Each with its words."""
    legend: Sequence[tuple[str, LineStyle]]


def spent_privacy(result: RunResult, points: Sequence[Point]) -> SpentPrivacy | None:
    """Return the section of a run's privacy; None where none was asked for."""
    privacy = result.privacy
    silos = privacy.get("silos", {})
    if not silos:
        return None
    paid_most = sorted(silos, key=lambda silo: (-_number(silos[silo], "epsilon"), silo))
    rows = [_row(silo, silos[silo]) for silo in paid_most[:MOST_ROWS]]
    return SpentPrivacy(
        [f"{said[0].upper()}{said[1:]}." for said in sentences(privacy)],
        _facts(privacy),
        rows,
        max(len(silos) - MOST_ROWS, 0),
        _pictures(result, points),
        _legend(result),
    )


def _row(silo: str, spent: Mapping[str, Any]) -> tuple[str, str, str, str]:
    cells = (_number(spent, name) for name in ("epsilon", "epsilon_renyi", "noise_multiplier"))
    epsilon, renyi, noise = ("–" if not math.isfinite(one) else f"{one:.3f}" for one in cells)
    return silo, epsilon, renyi, noise


def _number(spent: Mapping[str, Any], name: str) -> float:
    # What JSON has no word for is null.
    value = spent.get(name)
    return math.inf if value is None else float(value)


def _facts(privacy: Mapping[str, Any]) -> list[tuple[str, str]]:
    versions = ", ".join(
        f"{name} {version}" for name, version in privacy.get("versions", {}).items()
    )
    mean = privacy.get("mean", {})
    facts = [
        ("mechanism", str(privacy.get("mechanism", privacy.get("kind", "")))),
        ("what is protected", _protected(privacy)),
        ("neighbours", f"{privacy.get('relation', '')}"),
        ("delta", f"{privacy['delta']:g}"),
        ("clipped to", f"{privacy['clip_norm']:g}, {privacy.get('clipping', '')}"),
        ("counted by", _counted_by(privacy)),
        ("accountant", f"{privacy.get('accountant', '')}{f' ({versions})' if versions else ''}"),
    ]
    if mean:
        noise = f"{mean['deviation']:.3g} in each weight, {mean['noise_norm']:.3g} in all"
        step = f"the whole step had the norm {mean['step_norm']:.3g}"
        facts.append(("noise of the last mean", f"{noise}; {step}"))
    return [(name, value) for name, value in facts if value]


def _protected(privacy: Mapping[str, Any]) -> str:
    most = privacy.get("examples_per_unit")
    of_groups = f" of examples (data.group), at most {most} in a step" if most else ""
    return f"one {privacy.get('unit', '')}{of_groups}"


def _counted_by(privacy: Mapping[str, Any]) -> str:
    return {"server": "the server", "silos": "each silo, of itself"}.get(
        str(privacy.get("counted_by", "")), ""
    )


def _pictures(result: RunResult, points: Sequence[Point]) -> list[tuple[str, str]]:
    counted = [point for point in points if point.spent_span is not None]
    if len(counted) < FEWEST_POINTS:
        return []
    ends = [point.spent_span[1] for point in counted if point.spent_span is not None]
    words = (
        f"Epsilon of the silo that paid most: {ends[0]:.3f} after round {counted[0].round},"
        f" {ends[-1]:.3f} after round {counted[-1].round}."
    )
    found = [(epsilon_curve(result, points), words)]
    name = _metric(result, points)
    if name is not None:
        xs, ys = worth(points, name)
        words = (
            f"{titled(name)}: {written(ys[0])} at an epsilon of {xs[0]:.3f}, {written(ys[-1])} at"
            f" {xs[-1]:.3f}."
        )
        found.append((worth_of_epsilon(result, points, name), words))
    return found


def _metric(result: RunResult, points: Sequence[Point]) -> str | None:
    """Return the metric that is known of two rounds or more: of the task's test set, which no silo
    has to tell of, else of the silos.
    """
    for prefix in (CENTRAL, ""):
        known = {
            name: 1.0
            for name in result.shown
            if len(worth(points, f"{prefix}{name}")[0]) >= FEWEST_POINTS
        }
        name = headline_of(result.shown, known)
        if name is not None:
            return f"{prefix}{name}"
    return None


def _legend(result: RunResult) -> list[tuple[str, LineStyle]]:
    if len(result.silos) > MOST_LINES:
        return [("from the silo that paid least to the one that paid most", RANGE)]
    return [(silo, line_style(place)) for place, silo in enumerate(result.silos)]

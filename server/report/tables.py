"""The report's tables as plain rows of text: models beside each other, who has what, who did what, what failed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

from server.observers.progress import size
from server.run.result import Metrics, RunResult, Scores

MOST_COLUMNS = 12
"""Silos that get a column or a row in sight; of more, the page shows a few and folds the rest away."""


@dataclass
class Model:
    """One model's row: its metric on all silos (text, and a share for the bar), its loss, and each silo's own."""

    name: str
    score: str
    loss: str
    share: float
    own: list[str]
    ours: bool = False


@dataclass
class Comparison:
    """The models in sight, those folded away, and the silos that have a column."""

    metric: str
    silos: list[str]
    shown: list[Model]
    folded: list[Model] = field(default_factory=list)


def comparison(result: RunResult) -> Comparison | None:
    """Return the models beside each other; of many silos, the best, the median and the worst alone are in sight."""
    baseline = result.baseline
    if baseline is None:
        return None
    metric = known_metric(baseline.federated.union, ("accuracy", "loss")) or "accuracy"
    many = max(len(baseline.silo_alone), len(baseline.federated.by_silo)) > MOST_COLUMNS
    silos = [] if many else list(baseline.federated.by_silo)
    ours = _model("federated", baseline.federated, metric, silos)
    ours.ours = True
    alone = {
        name: _model(f"{name} alone", s, metric, silos) for name, s in baseline.silo_alone.items()
    }
    shown = [ours, *(_few(baseline.silo_alone, metric) if many else alone.values())]
    if baseline.centralised:
        shown.append(_model("all data pooled", baseline.centralised, metric, silos))
    return Comparison(metric, silos, shown, list(alone.values()) if many else [])


def partition(result: RunResult) -> list[tuple[str, list[tuple[int, float]], int]]:
    """Return a row per silo: its name, each class's count with its share of the largest count, and the sum."""
    most = max((max(row, default=0) for row in result.partition.values()), default=0) or 1
    return [
        (silo, [(n, round(n / most, 3)) for n in row], sum(row))
        for silo, row in result.partition.items()
    ]


def silo_rows(result: RunResult) -> list[list[str]]:
    """Return a row per silo: name, rounds answered of those asked, examples, training seconds, bytes up, last score."""
    rows = []
    for silo in result.silos:
        asked = [record for record in result.rounds if silo in record.cohort]
        answered = [record for record in asked if silo in record.replied]
        examples = next(
            (r.train[silo].get("num-examples") for r in reversed(answered) if silo in r.train), None
        )
        took = [r.seconds_training[silo] for r in answered if silo in r.seconds_training]
        metrics: Metrics = next(
            (r.metrics[silo] for r in reversed(result.rounds) if silo in r.metrics), {}
        )
        rows.append(
            [
                silo,
                f"{len(answered)} of {len(asked)}",
                "–" if examples is None else f"{examples:,.0f}",
                f"{median(took):.2f} s" if took else "–",
                size(sum(r.bytes_up.get(silo, 0) for r in result.rounds)),
                score(metrics, known_metric(metrics, ("accuracy", "loss"))),
            ]
        )
    return rows


def failures(result: RunResult) -> list[dict[str, str]]:
    """Return each silo's reasons once, with the rounds in which it failed for it."""
    rounds: dict[tuple[str, str], list[int]] = {}
    for record in result.rounds:
        for silo, reason in record.failed.items():
            rounds.setdefault((silo, reason), []).append(record.round)
    return [
        {"silo": silo, "reason": reason, "rounds": ", ".join(map(str, numbers))}
        for (silo, reason), numbers in sorted(rounds.items())
    ]


def known_metric(metrics: Metrics, names: Sequence[str]) -> str | None:
    """Return the first of the names that has a finite value."""
    return next((name for name in names if _finite(metrics.get(name))), None)


def score(metrics: Metrics, name: str | None) -> str:
    """Return a metric for people: a share in percent, a loss as a number, a dash where it is not known."""
    value = metrics.get(name) if name else None
    if value is None or not _finite(value):
        return "–"
    return f"{value:.3f}" if name == "loss" else f"{value:.1%}"


def _model(name: str, scores: Scores, metric: str, silos: list[str]) -> Model:
    value = scores.union.get(metric)
    share = value if metric != "loss" and value is not None and _finite(value) else 0.0
    own = [score(scores.by_silo.get(silo, {}), metric) for silo in silos]
    return Model(
        name,
        score(scores.union, metric),
        score(scores.union, "loss"),
        min(max(share, 0.0), 1.0),
        own,
    )


def _few(alone: dict[str, Scores], metric: str) -> list[Model]:
    """Return the best, the median and the worst of many silos alone."""
    ranked = sorted(
        ((name, s) for name, s in alone.items() if _finite(s.union.get(metric))),
        key=lambda pair: pair[1].union[metric],
        reverse=metric != "loss",
    )
    places = {"best": 0, "median": len(ranked) // 2, "worst": len(ranked) - 1} if ranked else {}
    chosen = [
        (f"{word} silo alone: {ranked[place][0]}", ranked[place][1])
        for word, place in places.items()
    ]
    return [_model(name, scores, metric, []) for name, scores in chosen]


def _finite(value: float | None) -> bool:
    return value is not None and abs(value) < float("inf")

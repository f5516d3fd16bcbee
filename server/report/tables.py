"""The report's tables as plain rows of text: models beside each other, who has what, who did what,
what failed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from server.observers.progress import size
from server.report.overview import SiloOverview
from server.run.result import Metrics, RunResult, Scores

MOST_COLUMNS = 12
"""Silos that get a column or a row in sight; of more, the page shows a few and folds the rest away.
"""
MOST_ROWS = 100
"""Rows of any table of the page; what is left out is said below it."""
LONGEST_REASON = 300
"""Characters of a reason, which is others' text."""
MOST_SPANS = 12
"""Rounds, or ranges of them, that are named one by one."""


@dataclass
class Model:
    """One model's row: its metric on all silos (text, and a share for the bar), its loss, and each
    silo's own.
    """

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
    """Return the models beside each other; of many silos, the best, the median and the worst alone
    are in sight.
    """
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
    return Comparison(metric, silos, shown, list(alone.values())[:MOST_ROWS] if many else [])


def partition(result: RunResult) -> list[tuple[str, list[tuple[int, float]], int]]:
    """Return a row per silo: its name, each class's count with its share of the largest count, and
    the sum.
    """
    most = max((max(row, default=0) for row in result.partition.values()), default=0) or 1
    return [
        (silo, [(n, round(n / most, 3)) for n in row], sum(row))
        for silo, row in list(result.partition.items())[:MOST_ROWS]
    ]


def silo_rows(silos: Mapping[str, SiloOverview]) -> list[list[str]]:
    """Return a row per silo: name, rounds answered of those asked, examples, training seconds,
    bytes up, last score.

    Of more than `MOST_ROWS` silos those that answered least come first, and the others are left
    out.
    """
    chosen = list(silos.items())
    if len(chosen) > MOST_ROWS:
        chosen.sort(key=lambda pair: pair[1].answered - pair[1].asked)
    rows = []
    for silo, seen in chosen[:MOST_ROWS]:
        took = seen.median_seconds
        row = [
            silo,
            f"{seen.answered} of {seen.asked}",
            "–" if seen.examples is None else f"{seen.examples:,.0f}",
            "–" if took is None else f"{took:.2f} s",
            size(seen.up),
            score(seen.metrics, known_metric(seen.metrics, ("accuracy", "loss"))),
        ]
        rows.append(row)
    return rows


def failures(failed: Mapping[tuple[str, str], Sequence[int]]) -> list[dict[str, str]]:
    """Return each silo's reasons once, with the rounds in which it failed for it, the most frequent
    first.

    At most `MOST_ROWS` of them: `Overview.failed` has the others.
    """
    ranked = sorted(failed.items(), key=lambda pair: (-len(pair[1]), pair[0]))
    return [
        {"silo": silo, "reason": reason[:LONGEST_REASON], "rounds": in_words(numbers)}
        for (silo, reason), numbers in ranked[:MOST_ROWS]
    ]


def in_words(rounds: Sequence[int]) -> str:
    """Return ascending round numbers as text: 1, 4 to 9, 12; of many, the first and how many there
    are.
    """
    spans: list[list[int]] = []
    for number in rounds:
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    said = []
    for first, last in spans[:MOST_SPANS]:
        said.append(f"{first}" if first == last else f"{first} to {last}")
    more = f", … {len(rounds)} in all" if len(spans) > MOST_SPANS else ""
    return ", ".join(said) + more


def known_metric(metrics: Metrics, names: Sequence[str]) -> str | None:
    """Return the first of the names that has a finite value."""
    return next((name for name in names if _finite(metrics.get(name))), None)


def score(metrics: Metrics, name: str | None) -> str:
    """Return a metric for people: a share in percent, a loss as a number, a dash where it is not
    known.
    """
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

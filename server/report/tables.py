"""The report's tables as plain rows of text: models beside each other, who has what, who did what,
what failed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean, median

from server.report.decisions import interval
from server.report.overview import Overview, SiloOverview, failures_in
from server.run.result import FinalTest, RunResult, Scores
from server.run.shown import (
    CENTRAL,
    NOT_KNOWN,
    Shown,
    direction,
    is_less_better,
    known,
    present,
    score,
    value_of,
    written,
)
from server.run.units import size

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
    """One model's row: its headline metric on all silos (text, and a share for the bar), its other
    metrics, and the headline metric on each silo's own examples.
    """

    name: str
    score: str
    share: float
    others: list[str]
    own: list[str]
    ours: bool = False


@dataclass
class Comparison:
    """The models in sight, those folded away, the other metrics and the silos that have a column."""

    metric: str
    less_is_better: bool
    others: list[str]
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
    names = present(result.shown, baseline.federated.union) or list(result.shown)
    many = max(len(baseline.silo_alone), len(baseline.federated.by_silo)) > MOST_COLUMNS
    silos = [] if many else list(baseline.federated.by_silo)
    every = [baseline.federated, *baseline.silo_alone.values()]
    every += [baseline.centralised] if baseline.centralised else []
    row = _Rows(names, silos, _largest(every, names[0]))
    ours = row.of("federated", baseline.federated)
    ours.ours = True
    alone = {name: row.of(f"{name} alone", s) for name, s in baseline.silo_alone.items()}
    if many:
        shown = [row.of(*few) for few in _few(baseline.silo_alone, names[0], result.shown)]
    else:
        shown = list(alone.values())
    if baseline.centralised:
        shown.append(row.of("all data pooled", baseline.centralised))
    return Comparison(
        names[0],
        is_less_better(result.shown, names[0]),
        names[1:],
        silos,
        [ours, *shown],
        list(alone.values())[:MOST_ROWS] if many else [],
    )


@dataclass(frozen=True)
class FinalRow:
    """One shown metric at the end: which way is better, on all silos' examples, at the worst and
    the best silo, and on the task's own test set.
    """

    name: str
    direction: str
    union: str
    interval: str
    worst: str
    best: str
    central: str


def final_rows(result: RunResult) -> list[FinalRow]:
    """Return a row for each shown metric that is known at the end of a run."""
    own = list(result.test.metrics.values()) if result.test is not None else []
    rows = []
    for name in result.shown:
        values = sorted(known(own, name), reverse=is_less_better(result.shown, name))
        row = FinalRow(
            name,
            direction(result.shown, name),
            score(result.final, name),
            interval(result.test, name),
            written(values[0]) if values else NOT_KNOWN,
            written(values[-1]) if values else NOT_KNOWN,
            score(result.final, f"{CENTRAL}{name}"),
        )
        if row.union != NOT_KNOWN or row.central != NOT_KNOWN:
            rows.append(row)
    return rows


def partition(result: RunResult) -> list[tuple[str, list[tuple[int, float]], int]]:
    """Return a row per silo: its name, each class's count with its share of the largest count, and
    the sum.
    """
    most = max((max(row, default=0) for row in result.partition.values()), default=0) or 1
    return [
        (silo, [(n, round(n / most, 3)) for n in row], sum(row))
        for silo, row in list(result.partition.items())[:MOST_ROWS]
    ]


def silo_rows(silos: Mapping[str, SiloOverview], shown: Shown) -> list[list[str]]:
    """Return a row per silo: name, rounds answered of those asked, examples and their share of all
    silos', training seconds, bytes up, and its last value of each shown metric.

    Of more than `MOST_ROWS` silos those that answered least come first, and the others are left
    out.
    """
    chosen = list(silos.items())
    if len(chosen) > MOST_ROWS:
        chosen.sort(key=lambda pair: pair[1].answered - pair[1].asked)
    every = sum(seen.examples or 0.0 for seen in silos.values())
    rows = []
    for silo, seen in chosen[:MOST_ROWS]:
        took = seen.median_seconds
        row = [
            silo,
            f"{seen.answered} of {seen.asked}",
            NOT_KNOWN if seen.examples is None else f"{seen.examples:,.0f}",
            NOT_KNOWN if not seen.examples else f"{seen.examples / every:.1%}",
            NOT_KNOWN if took is None else f"{took:.2f} s",
            size(seen.up),
        ]
        row += [score(seen.metrics, name) for name in shown]
        rows.append(row)
    return rows


def movement_rows(silos: Mapping[str, SiloOverview]) -> list[list[str]]:
    """Return a row per silo whose updates were measured: name, its share of all movement, what its
    updates weighed, their length and their direction; who moved the model most comes first.
    """
    chosen = [(silo, seen) for silo, seen in silos.items() if seen.moved]
    chosen.sort(key=lambda pair: (-mean(pair[1].moved), pair[0]))
    rows = []
    for silo, seen in chosen[:MOST_ROWS]:
        cosine = written(mean(seen.cosines)) if seen.cosines else NOT_KNOWN
        norm = written(median(seen.norms))
        largest = written(max(seen.norms))
        rows.append(
            [silo, f"{mean(seen.moved):.1%}", f"{mean(seen.shares):.1%}", norm, largest, cosine]
        )
    return rows


def named_rows(rounds: Overview) -> list[dict[str, str]]:
    """Return each silo that somebody should look at, why, and in which rounds; the most frequent
    first.
    """
    ranked = sorted(rounds.named.items(), key=lambda pair: (-len(pair[1]), pair[0]))
    return [
        {"silo": silo, "what": what, "rounds": in_words(numbers)}
        for (silo, what), numbers in ranked[:MOST_ROWS]
    ]


def failures(rounds: Overview, test: FinalTest | None) -> list[dict[str, str]]:
    """Return each silo's reasons once, with the rounds in which it failed for it, the most frequent
    first, and last those of the final test.

    At most `MOST_ROWS` of them: `Overview.failed` has the others.
    """
    ranked = sorted(rounds.failed.items(), key=lambda pair: (-len(pair[1]), pair[0]))
    told = [(failure, in_words(numbers)) for failure, numbers in ranked]
    if test is not None:
        told += [(failure, "final test") for failure in failures_in(test)]
    return [
        {
            "silo": failure.silo,
            "code": failure.code,
            "reason": failure.reason[:LONGEST_REASON],
            "rounds": when,
        }
        for failure, when in told[:MOST_ROWS]
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


@dataclass
class _Rows:
    """Makes rows of models: which metrics, which silos, and the value of a whole bar."""

    names: list[str]
    silos: list[str]
    largest: float

    def of(self, name: str, scores: Scores) -> Model:
        metric = self.names[0]
        value = value_of(scores.union, metric) or 0.0
        own = [score(scores.by_silo.get(silo, {}), metric) for silo in self.silos]
        others = [score(scores.union, other) for other in self.names[1:]]
        share = min(max(value / self.largest, 0.0), 1.0)
        return Model(name, score(scores.union, metric), share, others, own)


def _largest(every: Sequence[Scores], name: str) -> float:
    """Return the value of a whole bar: 1 where the values are shares, else the largest of them."""
    values = known([scores.union for scores in every], name)
    largest = max(values, default=0.0)
    return 1.0 if largest <= 1 else largest


def _few(alone: Mapping[str, Scores], metric: str, shown: Shown) -> list[tuple[str, Scores]]:
    """Return the best, the median and the worst of many silos alone, with the names of their rows."""
    ranked = [(name, s) for name, s in alone.items() if value_of(s.union, metric) is not None]
    ranked.sort(key=lambda pair: pair[1].union[metric], reverse=not is_less_better(shown, metric))
    if not ranked:
        return []
    places = {"best": 0, "median": len(ranked) // 2, "worst": len(ranked) - 1}
    return [
        (f"{word} silo alone: {ranked[place][0]}", ranked[place][1])
        for word, place in places.items()
    ]

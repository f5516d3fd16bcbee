"""What pages and cards show of a run's rounds, gathered in one pass over its history.

What is kept does not grow with rounds x silos: per round a few numbers, per silo a few numbers, and
each silo's own curve only where there are few enough silos to draw them.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Final, NamedTuple

from server.run.absence import TOLD_ROUNDS, TWINS, WHAT
from server.run.movement import COSINE, NORM, SHARE, moved_by, owner_among
from server.run.result import FinalTest, Metrics, RoundRecord
from server.run.shown import Shown, known

MOST_LINES: Final = 12
"""Silos drawn one by one; of more, the range is drawn."""
MOST_CURVES: Final = 6
"""Of the shown metrics, so many are drawn."""
# As `strategies.wire.protocol` has it, which imports torch: a list of runs need not wait for it.
NUM_EXAMPLES: Final = "num-examples"
OWNED: Final = "moved the model by 90 % or more of all movement"
TWO_PROCESSES: Final = f"two processes used its key ({TWINS})"

_CODE: Final = re.compile(r"\bMDW-\d{3}\b")
Span = tuple[float, float]


@dataclass
class Point:
    """One round, or the mean of several that follow each other: `first` to `round`.

    `seconds` and `training` (the slowest silo's) in seconds, `up` and `down` in bytes; `spans`
    holds the worst and the best silo's value of a metric, `silos` each silo's own metrics and
    `moved` its share of the movement where few are drawn; `most_moved` is the largest of these.
    `spent` is what the run had cost each silo by then (epsilon) where few are drawn, `spent_span`
    the least and the most of these; of several rounds they are those of the last.
    """

    first: int
    round: int
    seconds: float
    training: float
    up: float
    down: float
    aggregate: Metrics
    spans: dict[str, Span] = field(default_factory=dict)
    silos: dict[str, Metrics] = field(default_factory=dict)
    moved: Metrics = field(default_factory=dict)
    most_moved: float | None = None
    spent: Metrics = field(default_factory=dict)
    spent_span: Span | None = None


@dataclass
class SiloOverview:
    """What one silo did over all rounds; `examples` and `validation` are those of its last answer.

    Of its admitted updates, where the server measured them: `norms` are their lengths, `shares`
    what they weighed, `cosines` their directions, `moved` their shares of the rounds' movement.
    """

    asked: int = 0
    answered: int = 0
    examples: float | None = None
    validation: float | None = None
    up: int = 0
    metrics: Metrics = field(default_factory=dict)
    seconds: array[float] = field(default_factory=lambda: array("d"))
    norms: array[float] = field(default_factory=lambda: array("d"))
    shares: array[float] = field(default_factory=lambda: array("d"))
    cosines: array[float] = field(default_factory=lambda: array("d"))
    moved: array[float] = field(default_factory=lambda: array("d"))

    @property
    def median_seconds(self) -> float | None:
        """The median of its training times; None where it never answered."""
        return median(self.seconds) if self.seconds else None


class Failure(NamedTuple):
    """Why a silo's reply did not count: a code of docs/errors.md, empty where none was given, and
    the reason in words.
    """

    silo: str
    code: str
    reason: str


@dataclass
class Overview:
    """A run's rounds for people: the rounds as points, what each silo did, and in which rounds it
    failed, and why.

    `drawn` are the metrics that the points hold: the first few of those that the run shows.
    """

    drawn: tuple[str, ...] = ()
    points: list[Point] = field(default_factory=list)
    silos: dict[str, SiloOverview] = field(default_factory=dict)
    failed: dict[Failure, list[int]] = field(default_factory=dict)
    named: dict[tuple[str, str], list[int]] = field(default_factory=dict)
    """What there is to look at: by silo and reason, the rounds."""
    _absent: dict[str, tuple[str, list[int]]] = field(default_factory=dict)
    """Of silos without an answer: the code, and the rounds in a row."""

    @property
    def failures(self) -> int:
        """The number of replies that failed or were refused."""
        return sum(len(rounds) for rounds in self.failed.values())

    def add(self, record: RoundRecord, *, curves: bool) -> None:
        """Take in one more round; `curves` keeps each silo's own values for drawing."""
        moved = moved_by(record.train)
        self.points.append(_point(record, self.drawn, moved, curves=curves))
        for silo in record.cohort:
            self.silos.setdefault(silo, SiloOverview()).asked += 1
        for silo in record.replied:
            self._answered(silo, record)
        for silo, metrics in record.metrics.items():
            seen = self.silos.setdefault(silo, SiloOverview())
            seen.metrics = metrics
            seen.validation = metrics.get(NUM_EXAMPLES)
        for failure in failures_in(record):
            self.failed.setdefault(failure, []).append(record.round)
        for silo, share in moved.items():
            self.silos.setdefault(silo, SiloOverview()).moved.append(share)
        owner = owner_among(moved)
        if owner is not None:
            self._name(owner, OWNED, record.round)
        for silo in record.twins:
            self._name(silo, TWO_PROCESSES, record.round)
        for silo in record.cohort:
            self._look_at_absence(silo, record)

    def _look_at_absence(self, silo: str, record: RoundRecord) -> None:
        """Name a silo that gave no answer for the same reason round after round."""
        code = record.codes.get(silo, "")
        if code not in WHAT or silo in record.replied:
            self._absent.pop(silo, None)
            return
        before, rounds = self._absent.get(silo, (code, []))
        rounds = [*rounds, record.round] if before == code else [record.round]
        self._absent[silo] = code, rounds
        if len(rounds) >= TOLD_ROUNDS:
            for number in rounds if len(rounds) == TOLD_ROUNDS else rounds[-1:]:
                self._name(silo, f"{WHAT[code]}, round after round ({code})", number)
            self._absent[silo] = code, rounds[-TOLD_ROUNDS - 1 :]

    def _name(self, silo: str, what: str, round: int) -> None:
        self.named.setdefault((silo, what), []).append(round)

    def _answered(self, silo: str, record: RoundRecord) -> None:
        seen = self.silos.setdefault(silo, SiloOverview())
        seen.answered += 1
        seen.up += record.bytes_up.get(silo, 0)
        trained = record.train.get(silo, {})
        seen.examples = trained.get(NUM_EXAMPLES, seen.examples)
        seen.norms.extend(known([trained], NORM))
        seen.shares.extend(known([trained], SHARE))
        seen.cosines.extend(known([trained], COSINE))
        if silo in record.seconds_training:
            seen.seconds.append(record.seconds_training[silo])


def overview(records: Iterable[RoundRecord], silos: Sequence[str], shown: Shown) -> Overview:
    """Return what a page shows of a run's rounds; `records` are read once, in order."""
    drawn = tuple(shown)[:MOST_CURVES]
    gathered = Overview(drawn, silos={silo: SiloOverview() for silo in silos})
    few = len(silos) <= MOST_LINES
    for record in records:
        gathered.add(record, curves=few)
    return gathered


def failures_in(closed: RoundRecord | FinalTest) -> list[Failure]:
    """Return who failed in a round or in the final test.

    The code is the silo's own where it said one, such as that of its owner's policy, otherwise the
    server's.
    """
    failures = []
    for silo, reason in closed.failed.items():
        own = _CODE.search(reason)
        code = own[0] if own else closed.codes.get(silo, "")
        failures.append(Failure(silo, code, reason))
    return failures


def binned(points: Sequence[Point], most: int, drawn: Sequence[str] = ()) -> list[Point]:
    """Return at most `most` points: each the mean of as many rounds that follow each other; spans
    are joined.

    Of their metrics those in `drawn` are kept.
    """
    width = -(-len(points) // most) if points else 1
    if width == 1:
        return list(points)
    return [_joined(points[at : at + width], drawn) for at in range(0, len(points), width)]


def _point(record: RoundRecord, drawn: Sequence[str], moved: Metrics, *, curves: bool) -> Point:
    values = {name: known(record.metrics.values(), name) for name in drawn}
    spent = {s: v for s, one in record.privacy.items() for v in known([one], "epsilon")}
    return Point(
        first=record.round,
        round=record.round,
        seconds=record.seconds,
        training=max(record.seconds_training.values(), default=0.0),
        up=sum(record.bytes_up.values()),
        down=sum(record.bytes_down.values()),
        aggregate=record.aggregate,
        spans={name: (min(found), max(found)) for name, found in values.items() if found},
        silos=record.metrics if curves else {},
        moved=moved if curves else {},
        most_moved=max(moved.values(), default=None),
        spent=spent if curves else {},
        spent_span=(min(spent.values()), max(spent.values())) if spent else None,
    )


def _joined(points: Sequence[Point], drawn: Sequence[str]) -> Point:
    def mean(values: Iterable[float]) -> float:
        return sum(values) / len(points)

    spans: dict[str, Span] = {}
    for name in drawn:
        found = [point.spans[name] for point in points if name in point.spans]
        if found:
            spans[name] = (min(low for low, _ in found), max(high for _, high in found))
    silos = {silo for point in points for silo in point.silos}
    return Point(
        first=points[0].first,
        round=points[-1].round,
        seconds=mean(point.seconds for point in points),
        training=mean(point.training for point in points),
        up=mean(point.up for point in points),
        down=mean(point.down for point in points),
        aggregate=_means([point.aggregate for point in points], drawn),
        spans=spans,
        silos={
            silo: _means([point.silos[silo] for point in points if silo in point.silos], drawn)
            for silo in sorted(silos)
        },
        moved=_means([point.moved for point in points], sorted(silos)),
        most_moved=max(
            (point.most_moved for point in points if point.most_moved is not None), default=None
        ),
        spent=points[-1].spent,
        spent_span=points[-1].spent_span,
    )


def _means(metrics: Sequence[Metrics], drawn: Sequence[str]) -> Metrics:
    """Return the mean of each drawn metric over those rounds in which it is known."""
    means = {}
    for name in drawn:
        values = known(metrics, name)
        if values:
            means[name] = sum(values) / len(values)
    return means

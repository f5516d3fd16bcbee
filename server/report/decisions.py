"""How a model decides, as rows of text: its operating points, its calibration, which classes it
takes for which, and the 95 % intervals of what it reaches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from server.run.result import FinalTest, RunResult
from server.run.shown import NOT_KNOWN, written
from server.scoring.outcome import OperatingPoint, Outcome

if TYPE_CHECKING:
    # For an annotation: the model card is written by whoever draws nothing.
    from server.report.drawing import LineStyle

MOST_CLASSES: Final = 30
"""Of a table of classes against classes."""
MOST_ROWS: Final = 30
RULES: Final = {
    "specificity": "specificity of {at:g} or more",
    "sensitivity": "sensitivity of {at:g} or more",
    "alarms": "at most {at:g} false positives in 1,000",
    "youden": "largest sensitivity + specificity",
}


@dataclass(frozen=True)
class Known:
    """A value, and its 95 % interval where it has one."""

    value: str
    interval: str = ""

    def __str__(self) -> str:
        return f"{self.value} ({self.interval})" if self.interval else self.value


@dataclass(frozen=True)
class Decision:
    """One class: by which rule and from which probability on the model says yes, what that did to
    the validation examples that chose it, and what it does to the test examples.
    """

    name: str
    rule: str
    probability: str
    chosen_sensitivity: str
    chosen_specificity: str
    sensitivity: Known
    specificity: Known
    precision: Known
    alarms: str


@dataclass(frozen=True)
class Ranking:
    """One class: how well it is told from the rest, and how far its probabilities hold."""

    name: str
    examples: str
    auroc: Known
    auprc: Known
    error: str
    calibrated: str


@dataclass(frozen=True)
class GroupRow:
    """One group of examples, such as one sex."""

    name: str
    examples: str
    accuracy: Known
    auroc: Known
    auprc: Known


@dataclass(frozen=True)
class Decisions:
    """What the report shows of how a model decides."""

    rows: list[Decision]
    rankings: list[Ranking]
    confusion: list[tuple[str, list[tuple[int, float]]]]
    classes: list[str]
    temperature: str
    pictures: list[tuple[str, str]]
    legend: list[tuple[str, LineStyle]]
    silos: int
    where: str
    groups: list[GroupRow]
    sure: str
    sure_cooled: str
    """Of more than two classes, the calibration error of the class that is said, and that at the
    temperature; empty of two, where each row has it.
    """
    exclusive: bool
    """Whether an example is of one of several classes, of which the likeliest is predicted."""


def decisions(result: RunResult) -> Decisions | None:
    """Return how a model decides; None where its task ranks nothing and tells no classes apart."""
    test = result.test
    if test is None or not test.details:
        return None
    from server.report.decision_plots import drawn_classes, style_of

    classes = test.details.get("classes", {})
    if not classes and "confusion" not in test.details:
        # Numbers are predicted: their intervals stand beside the metrics.
        return None
    names = drawn_classes(classes)
    temperature = test.chosen.get("temperature")
    return Decisions(
        rows=decision_rows(test),
        rankings=ranking_rows(test),
        confusion=confusion_rows(test, result.classes),
        classes=result.classes,
        temperature=NOT_KNOWN if temperature is None else written(temperature),
        pictures=_pictures(classes) if names else [],
        legend=[(name, style_of(place, len(names))) for place, name in enumerate(names)],
        silos=len(test.chosen.get("silos", [])),
        where=where_of(test),
        groups=group_rows(test),
        sure=_confidence_error(test, "reliability"),
        sure_cooled=_confidence_error(test, "calibrated"),
        exclusive=len(test.details.get("confusion", [])) > 2,
    )


def confidence_in_words(test: FinalTest) -> str:
    """Return how far the probability of the class that is said holds, of more than two classes;
    empty where that is not known.
    """
    plain = _confidence_error(test, "reliability")
    cooled = _confidence_error(test, "calibrated")
    if not plain:
        return ""
    after = f", {cooled} at the temperature" if cooled else ""
    return f"Of the class that is said the calibration error is {plain}{after}."


def _confidence_error(test: FinalTest, name: str) -> str:
    found = test.details.get("confidence", {}).get(name)
    return "" if found is None else written(found["error"])


def where_of(test: FinalTest) -> str:
    """Return of which examples a test's details are."""
    return "the task's own test set" if test.details.get("central") else "the silos' test examples"


def decision_rows(test: FinalTest) -> list[Decision]:
    """Return a row for each class that has an operating point."""
    rows = []
    classes = test.details.get("classes", {})
    for name, point in list(test.chosen.get("points", {}).items())[:MOST_ROWS]:
        found = classes.get(name, {})
        if "outcome" not in found:
            continue
        chosen = OperatingPoint.from_json(point)
        after = Outcome(**found["outcome"])
        intervals = found["intervals"]
        rows.append(
            Decision(
                name,
                rule_in_words(chosen),
                written(chosen.probability),
                written(chosen.outcome.sensitivity),
                written(chosen.outcome.specificity),
                with_interval(after.sensitivity, intervals.get("sensitivity")),
                with_interval(after.specificity, intervals.get("specificity")),
                with_interval(after.precision, intervals.get("precision")),
                written(after.alarms),
            )
        )
    return rows


def ranking_rows(test: FinalTest) -> list[Ranking]:
    """Return a row for each class that is ranked."""
    rows = []
    for name, found in list(test.details.get("classes", {}).items())[:MOST_ROWS]:
        intervals = found["intervals"]
        calibrated = found.get("calibrated", {}).get("error")
        rows.append(
            Ranking(
                name,
                f"{found['positives']:,} of {found['positives'] + found['negatives']:,}",
                with_interval(found["auroc"], intervals.get("auroc")),
                with_interval(found["auprc"], intervals.get("auprc")),
                written(found["reliability"]["error"]),
                written(calibrated),
            )
        )
    return rows


def group_rows(test: FinalTest) -> list[GroupRow]:
    """Return a row for each group of examples that the task tells apart."""
    rows = []
    for name, found in list(test.details.get("subgroups", {}).items())[:MOST_ROWS]:
        intervals = found["intervals"]
        known = [
            with_interval(found.get(metric), intervals.get(metric))
            for metric in ("accuracy", "auroc", "auprc")
        ]
        rows.append(GroupRow(name, f"{found['examples']:,}", *known))
    return rows


def confusion_rows(
    test: FinalTest, classes: Sequence[str]
) -> list[tuple[str, list[tuple[int, float]]]]:
    """Return a row for each true class: how often each class was guessed, with its share of the
    row; empty of very many classes.
    """
    counts = test.details.get("confusion", [])
    if not 2 <= len(counts) <= MOST_CLASSES:
        return []
    names = classes if len(classes) == len(counts) else [str(i) for i in range(len(counts))]
    rows = []
    for name, row in zip(names, counts, strict=True):
        whole = sum(row) or 1
        rows.append((name, [(count, round(count / whole, 3)) for count in row]))
    return rows


def interval(test: FinalTest | None, name: str) -> str:
    """Return the 95 % interval of a metric of all silos' test examples; empty where none is known."""
    own = test is not None and not test.details.get("central")
    found = test.details.get("intervals", {}).get(name) if test is not None and own else None
    return "" if found is None else _range(found)


def with_interval(value: float | None, found: Sequence[float] | None) -> Known:
    """Return a value with its interval."""
    text = written(value)
    return Known(text) if found is None or text == NOT_KNOWN else Known(text, _range(found))


def rule_in_words(point: OperatingPoint) -> str:
    """Return by which rule an operating point was chosen."""
    return RULES[point.rule].format(at=point.at)


def _range(found: Sequence[float]) -> str:
    low, high = found
    return f"{written(low)} to {written(high)}"


def _pictures(classes: dict[str, Any]) -> list[tuple[str, str]]:
    from server.report.decision_plots import (
        precision_recall_curve,
        reliability_curve,
        roc_curve,
    )

    return [
        (roc_curve(classes), "The ROC curve; its numbers are in the table of classes."),
        (
            precision_recall_curve(classes),
            "Precision over recall; its numbers are in the table of classes.",
        ),
        (
            reliability_curve(classes),
            "What happened over what the model said; the errors are in the table of classes.",
        ),
    ]

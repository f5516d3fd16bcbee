"""Pictures of how a model decides: ROC, precision and recall, and how far its probabilities hold.

Of many classes the first few are drawn; the result holds all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import matplotlib
from matplotlib.axes import Axes

from server.report.drawing import AGGREGATE, INK, SOFT, STYLE, LineStyle, line_style, new_axes, svg

MOST_CLASSES: Final = 8
"""Classes that have a line."""
ENOUGH: Final = 10
"""Examples of a dot in the picture of calibration."""
SQUARE: Final = (4.1, 3.6)
CALIBRATED: Final = LineStyle(AGGREGATE.colour, (4, 2), "o", 1.2)
Classes = Mapping[str, Mapping[str, Any]]


def drawn_classes(classes: Classes) -> list[str]:
    """Return the classes that are drawn: those with examples of both kinds."""
    known = [name for name, found in classes.items() if found["roc"]]
    return known[:MOST_CLASSES]


def style_of(place: int, count: int) -> LineStyle:
    """Return the style of a class's line; of one class alone, that of all silos together."""
    return AGGREGATE if count == 1 else line_style(place)


@matplotlib.rc_context(STYLE)
def roc_curve(classes: Classes) -> str:
    """Return the true positive rate over the false positive rate, with each operating point."""
    figure, axes = new_axes(SQUARE)
    axes.plot([0, 1], [0, 1], color=SOFT, lw=0.9, ls=(0, (2, 3)))
    for style, found in _lines(classes):
        _line(axes, found["roc"], style)
        outcome = found.get("outcome")
        if outcome:
            wrong = outcome["false_positives"] / outcome["negatives"]
            right = outcome["true_positives"] / outcome["positives"]
            _point(axes, wrong, right, style)
    _finish(axes, "ROC", "false positive rate", "true positive rate (sensitivity)")
    return svg(figure, "roc")


@matplotlib.rc_context(STYLE)
def precision_recall_curve(classes: Classes) -> str:
    """Return precision over recall, with each operating point and what chance would give."""
    figure, axes = new_axes(SQUARE)
    for style, found in _lines(classes):
        share = found["positives"] / (found["positives"] + found["negatives"])
        axes.axhline(share, color=style.colour, lw=0.8, ls=(0, (2, 3)), alpha=0.7)
        _line(axes, found["precision_recall"], style)
        outcome = found.get("outcome")
        if outcome and outcome["true_positives"]:
            right = outcome["true_positives"]
            called = right + outcome["false_positives"]
            _point(axes, right / outcome["positives"], right / called, style)
    _finish(axes, "precision and recall", "recall (sensitivity)", "precision")
    return svg(figure, "precision-recall")


@matplotlib.rc_context(STYLE)
def reliability_curve(classes: Classes) -> str:
    """Return what happened over what was said; of one class, also with the temperature."""
    figure, axes = new_axes(SQUARE)
    axes.plot([0, 1], [0, 1], color=SOFT, lw=0.9, ls=(0, (2, 3)))
    lines = _lines(classes)
    for style, found in lines:
        _reliable(axes, found["reliability"]["ranges"], style)
        if len(lines) == 1 and "calibrated" in found:
            _reliable(axes, found["calibrated"]["ranges"], CALIBRATED)
    _finish(axes, "calibration", "probability that the model says", "share that was positive")
    return svg(figure, "reliability")


def _lines(classes: Classes) -> list[tuple[LineStyle, Mapping[str, Any]]]:
    names = drawn_classes(classes)
    return [(style_of(place, len(names)), classes[name]) for place, name in enumerate(names)]


def _line(axes: Axes, points: Sequence[Sequence[float]], style: LineStyle) -> None:
    xs = [x for x, _ in points]
    ys = [y for _, y in points]
    axes.plot(xs, ys, markevery=max(len(xs) // 8, 1), **style.for_matplotlib, clip_on=False)


def _point(axes: Axes, x: float, y: float, style: LineStyle) -> None:
    axes.plot([x], [y], "o", ms=8, mfc="none", mec=style.colour, mew=1.8, clip_on=False, zorder=5)


def _reliable(axes: Axes, ranges: Sequence[Sequence[float]], style: LineStyle) -> None:
    drawn = _of_enough(ranges)
    said = [row[0] for row in drawn]
    was = [row[1] for row in drawn]
    axes.plot(said, was, color=style.colour, lw=style.width, ls=_dashes(style), clip_on=False)
    most = max((row[2] for row in drawn), default=1)
    # The more examples, the larger the dot.
    sizes = [8 + 60 * row[2] / most for row in drawn]
    axes.scatter(said, was, s=sizes, color=style.colour, clip_on=False, zorder=4, lw=0)


def _of_enough(ranges: Sequence[Sequence[float]]) -> list[tuple[float, float, float]]:
    """Return neighbouring ranges together until each has enough examples for its share to mean
    something, the last with what is left.
    """
    joined: list[tuple[float, float, float]] = []
    said = was = count = 0.0
    for mean, share, examples in ranges:
        said += mean * examples
        was += share * examples
        count += examples
        if count >= ENOUGH:
            joined.append((said / count, was / count, count))
            said = was = count = 0.0
    if count:
        mean, share, examples = joined.pop() if joined else (0.0, 0.0, 0.0)
        whole = count + examples
        joined.append(((mean * examples + said) / whole, (share * examples + was) / whole, whole))
    return joined


def _dashes(style: LineStyle) -> Any:
    return (0, style.dashes) if style.dashes else "-"


def _finish(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title, loc="left", fontsize=11, color=INK)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.grid()
    axes.tick_params(length=3)

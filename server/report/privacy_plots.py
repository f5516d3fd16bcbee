"""The report's curves of privacy: epsilon over the rounds, and what the model was worth at each."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib

from server.report.drawing import AGGREGATE, SIZE, STYLE, Lines, finish, line_style, new_axes, svg
from server.report.overview import MOST_LINES, Point, binned
from server.report.plots import MOST_POINTS
from server.run.result import RunResult
from server.run.shown import CENTRAL, NOISE, in_words, is_less_better, value_of


@matplotlib.rc_context(STYLE)
def epsilon_curve(result: RunResult, points: Sequence[Point]) -> str:
    """Return what the run had cost after each round, at each silo or from the least to the most."""
    figure, axes = new_axes((SIZE[0], 2.7))
    lines = Lines(axes)
    drawn = [point for point in binned(points, MOST_POINTS) if point.spent_span is not None]
    xs = [float(point.round) for point in drawn]
    if len(result.silos) <= MOST_LINES:
        for place, silo in enumerate(result.silos):
            of_silo = [(p.round, p.spent[silo]) for p in drawn if silo in p.spent]
            lines.add([float(x) for x, _ in of_silo], [y for _, y in of_silo], line_style(place))
    else:
        spans = [point.spent_span for point in drawn if point.spent_span is not None]
        lines.range(xs, [low for low, _ in spans], [high for _, high in spans])
    axes.set_ylim(bottom=0)
    lines.label_ends()
    finish(axes, "epsilon so far", points[0].first - 0.6, points[-1].round + 0.6)
    return svg(figure, "epsilon")


@matplotlib.rc_context(STYLE)
def worth_of_epsilon(result: RunResult, points: Sequence[Point], name: str) -> str:
    """Return a metric of all silos or of the task's test set over the epsilon that it had cost."""
    figure, axes = new_axes((SIZE[0], 2.7))
    lines = Lines(axes)
    xs, ys = worth(points, name)
    spreads = [value_of(point.aggregate, f"{name}{NOISE}") or 0.0 for point in _known(points, name)]
    if any(spreads):
        low = [y - spread for y, spread in zip(ys, spreads, strict=True)]
        high = [y + spread for y, spread in zip(ys, spreads, strict=True)]
        lines.range(xs, low, high)
    lines.add(xs, ys, AGGREGATE)
    own = name.removeprefix(CENTRAL)
    lines.finish(share=not is_less_better(result.shown, own))
    margin = 0.03 * (xs[-1] - xs[0]) or 0.5
    finish(axes, titled(name), xs[0] - margin, xs[-1] + margin, label="epsilon of who paid most")
    return svg(figure, f"epsilon-{name}")


def worth(points: Sequence[Point], name: str) -> tuple[list[float], list[float]]:
    """Return the epsilon of who paid most after each round, and the metric then, where both are known."""
    xs = []
    ys = []
    for point in _known(points, name):
        value = value_of(point.aggregate, name)
        assert value is not None and point.spent_span is not None
        xs.append(point.spent_span[1])
        ys.append(value)
    return xs, ys


def _known(points: Sequence[Point], name: str) -> list[Point]:
    """Return the points at which both a metric and what it had cost are known."""
    return [
        point
        for point in binned(points, MOST_POINTS, [name, f"{name}{NOISE}"])
        if value_of(point.aggregate, name) is not None and point.spent_span is not None
    ]


def titled(name: str) -> str:
    """Return in words which metric it is, and of whom."""
    own = in_words(name.removeprefix(CENTRAL))
    return f"{own}, the task's test set" if name.startswith(CENTRAL) else f"{own}, all silos"

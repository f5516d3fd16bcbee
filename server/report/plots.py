"""The report's curves and bars, each a function from a result to SVG text.

They hold numbers and our own words only; silos' names stand in the page's legend, as text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import matplotlib
from matplotlib.axes import Axes

from server.report.drawing import (
    AGGREGATE,
    BEST_ALONE,
    COLOURS,
    PAPER,
    POOLED,
    SIZE,
    SOFT,
    STYLE,
    Lines,
    LineStyle,
    finish,
    line_style,
    new_axes,
    svg,
)
from server.report.overview import MOST_LINES, Point, binned
from server.run.movement import OWNS
from server.run.result import Metrics, RunResult
from server.run.shown import NOISE, best, in_words, is_less_better, known, value_of, written

MOST_POINTS: Final = 250
"""Points of a curve; of more rounds, each is the mean of several."""
MOST_BARS: Final = 50
"""Bars of a picture; of more rounds, each is the mean of several."""
LARGEST: Final = "largest"
OUTLIER: Final = 3.0
"""A bar that is so many times as high as the next one is cut: it would flatten all others."""


class Bar(NamedTuple):
    """One bar of two parts, the first below."""

    place: float
    below: float
    above: float

    @property
    def total(self) -> float:
        """Its whole height."""
        return self.below + self.above


@matplotlib.rc_context(STYLE)
def learning_curve(result: RunResult, points: Sequence[Point], name: str) -> str:
    """Return one metric on validation examples over the rounds: the aggregate, the silos, the
    baselines.
    """
    figure, axes = new_axes()
    lines = Lines(axes)
    drawn = binned(points, MOST_POINTS, [name, f"{name}{NOISE}"])
    noised = _noise(lines, drawn, name)
    if len(result.silos) <= MOST_LINES:
        for place, silo in enumerate(result.silos):
            own = [point.silos.get(silo, {}) for point in drawn]
            _line(lines, drawn, own, name, line_style(place))
    else:
        _range(lines, drawn, name)
    _line(lines, drawn, [point.aggregate for point in drawn], name, AGGREGATE)
    for level, style in reference_levels(result, name):
        lines.level(level, style)
    begins = lines.finish(share=not is_less_better(result.shown, name))
    title = f"{in_words(name)}, shaded: ± its noise" if noised else in_words(name)
    # An axis that leaves out the lower part of a share is said to.
    if begins > 0:
        title += f" (axis from {written(begins)})"
    _finish(axes, title, points)
    return svg(figure, f"curve-{name}")


def _noise(lines: Lines, drawn: Sequence[Point], name: str) -> bool:
    """Draw how far noise moves a metric of all silos; return whether there is any in it."""
    found = [
        (float(point.round), value, spread)
        for point in drawn
        for value in known([point.aggregate], name)
        for spread in known([point.aggregate], f"{name}{NOISE}")
    ]
    if found:
        low, high = ([y + sign * spread for _, y, spread in found] for sign in (-1, 1))
        lines.range([x for x, _, _ in found], low, high)
    return bool(found)


@matplotlib.rc_context(STYLE)
def seconds(points: Sequence[Point]) -> str:
    """Return where the seconds of each round went: the slowest silo's training, and everything
    else.
    """
    return _bars(points, second_bars(points), "seconds a round", (COLOURS[0], COLOURS[1]))


@matplotlib.rc_context(STYLE)
def traffic(points: Sequence[Point]) -> str:
    """Return the bytes that travelled in each round, to the silos and from them."""
    drawn = binned(points, MOST_BARS)
    most = max(point.down + point.up for point in drawn)
    units = (("GB", 1e9), ("MB", 1e6), ("kB", 1e3))
    unit, scale = next((u, s) for u, s in units if most >= s or u == "kB")
    bars = [Bar(_middle(point), point.down / scale, point.up / scale) for point in drawn]
    return _bars(points, bars, f"{unit} a round", (COLOURS[5], COLOURS[2]))


@matplotlib.rc_context(STYLE)
def movement(result: RunResult, points: Sequence[Point]) -> str:
    """Return each silo's share of the movement of each round; of many silos, the largest share."""
    figure, axes = new_axes((SIZE[0], 2.7))
    lines = Lines(axes)
    drawn = binned(points, MOST_POINTS)
    if len(result.silos) <= MOST_LINES:
        for place, silo in enumerate(result.silos):
            _line(lines, drawn, [point.moved for point in drawn], silo, line_style(place))
    else:
        most: list[Metrics] = [
            {} if point.most_moved is None else {LARGEST: point.most_moved} for point in drawn
        ]
        _line(lines, drawn, most, LARGEST, line_style(0))
    lines.level(OWNS, BEST_ALONE)
    axes.set_ylim(0, 1)
    lines.label_ends()
    _finish(axes, "share of a round's movement", points)
    return svg(figure, "movement")


def second_bars(points: Sequence[Point]) -> list[Bar]:
    """Return the seconds of the rounds as bars: the slowest silo's training, and the rest."""
    return [
        Bar(_middle(point), point.training, max(point.seconds - point.training, 0.0))
        for point in binned(points, MOST_BARS)
    ]


def cut_bar(bars: Sequence[Bar]) -> tuple[Bar, float] | None:
    """Return the bar that would flatten all others, often a cold start, and where it is cut; None
    where there is none.
    """
    if len(bars) <= 2:
        return None
    second, most = sorted(bars, key=lambda bar: bar.total)[-2:]
    if most.total > OUTLIER * second.total > 0:
        return most, 1.5 * second.total
    return None


def step(points: Sequence[Point], most: int) -> int:
    """Return how many rounds one point or bar stands for, where at most `most` are drawn."""
    return max(-(-len(points) // most), 1)


def reference_levels(result: RunResult, name: str) -> list[tuple[float, LineStyle]]:
    """Return the level of the pooled model (dashed) and of the best silo alone (dotted), as far as
    known.
    """
    if result.baseline is None:
        return []
    pooled = [result.baseline.centralised.union] if result.baseline.centralised else []
    alone = known([scores.union for scores in result.baseline.silo_alone.values()], name)
    levels = [(value, POOLED) for value in known(pooled, name)]
    if alone:
        levels.append((best(result.shown, name, alone), BEST_ALONE))
    return levels


def _line(
    lines: Lines,
    points: Sequence[Point],
    metrics: Sequence[Metrics],
    name: str,
    style: LineStyle,
) -> None:
    xs = []
    ys = []
    for point, measured in zip(points, metrics, strict=True):
        value = value_of(measured, name)
        if value is not None:
            xs.append(_middle(point))
            ys.append(value)
    lines.add(xs, ys, style)


def _range(lines: Lines, points: Sequence[Point], name: str) -> None:
    spans = [(_middle(point), point.spans[name]) for point in points if name in point.spans]
    if spans:
        low = [span[0] for _, span in spans]
        high = [span[1] for _, span in spans]
        lines.range([x for x, _ in spans], low, high)


def _middle(point: Point) -> float:
    return (point.first + point.round) / 2


def _bars(
    points: Sequence[Point], bars: Sequence[Bar], title: str, colours: tuple[str, str]
) -> str:
    figure, axes = new_axes((SIZE[0], 2.7))
    # A lone round is a bar, not a wall.
    width = min(0.8, 0.15 * len(bars)) * step(points, MOST_BARS)
    cut = cut_bar(bars)
    whole = [bar for bar in bars if cut is None or bar is not cut[0]]
    _stack(axes, whole, width, colours)
    _finish(axes, title, points)
    if cut is not None:
        _draw_cut(axes, *cut, width, colours, last=bars[-1])
    return svg(figure, title)


def _stack(axes: Axes, bars: Sequence[Bar], width: float, colours: tuple[str, str]) -> None:
    places = [bar.place for bar in bars]
    below = [bar.below for bar in bars]
    axes.bar(places, below, width, color=colours[0])
    axes.bar(places, [bar.above for bar in bars], width, bottom=below, color=colours[1])


def _draw_cut(
    axes: Axes, bar: Bar, height: float, width: float, colours: tuple[str, str], last: Bar
) -> None:
    """Draw a bar that is too high for the picture with a gap in it, its numbers beside it.

    Both parts stay in sight: what is drawn of it is divided as the whole bar is.
    """
    shrunk = height / bar.total
    _stack(axes, [Bar(bar.place, bar.below * shrunk, bar.above * shrunk)], width, colours)
    axes.set_ylim(0, height * 1.04)
    _draw_gap(axes, bar.place, 0.62 * width, 0.85 * height, 0.035 * height)
    beside = "right" if bar.place == last.place else "left"
    away = -0.75 * width if beside == "right" else 0.75 * width
    lines = (f"{bar.total:.3g}", f"{bar.below:.3g} + {bar.above:.3g}")
    for number, line in enumerate(lines):
        axes.text(
            bar.place + away,
            (1 - 0.08 * number) * height,
            line,
            ha=beside,
            va="top",
            fontsize=9 - number,
        )


def _draw_gap(axes: Axes, x: float, half: float, y: float, rise: float) -> None:
    """Draw the mark of a bar that is broken off: a slanted gap with a line on each side."""
    xs = [x - half, x + half]
    lower = [y - rise, y + rise]
    upper = [y + rise, y + 3 * rise]
    axes.fill_between(xs, lower, upper, color=PAPER, lw=0, zorder=3)
    for ys in (lower, upper):
        axes.plot(xs, ys, color=SOFT, lw=1, zorder=4)


def _finish(axes: Axes, title: str, points: Sequence[Point]) -> None:
    first = points[0].first if points else 0
    last = points[-1].round if points else 1
    finish(axes, title, first - 0.6, last + 0.6)

"""The report's curves and bars, each a function from a result to SVG text that takes the page's own
colours.

They hold numbers and our own words only; silos' names stand in the page's legend, as text.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any, Final

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from server.report.overview import MOST_LINES, Point, binned
from server.run.result import Metrics, RunResult
from server.run.shown import best, known

INK: Final = "#010203"
"""Stands for the page's colour of text, `var(--ink)`, and is replaced by it."""
SOFT: Final = "#010204"
LINE: Final = "#010205"
PAGE_COLOURS: Final = {INK: "var(--ink)", SOFT: "var(--soft)", LINE: "var(--line)"}
COLOURS: Final = (
    "#3d8fd9",
    "#dd8433",
    "#2fa384",
    "#c46fb2",
    "#b8921c",
    "#7f83ec",
    "#cc5a57",
    "#5aa6c0",
)
"""Okabe and Ito's palette, of a lightness that shows on white and on near black."""
DASHES: Final = ("solid", (0, (6, 1.5)), (0, (1, 1)))
"""For the silos after the eighth: a second sign beside the colour."""
MOST_POINTS: Final = 250
"""Points of a curve; of more rounds, each is the mean of several."""
MOST_BARS: Final = 50
"""Bars of a picture; of more rounds, each is the mean of several."""
SIZE: Final = (4.9, 3.1)

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "text.parse_math": False,
    "axes.labelcolor": SOFT,
    "axes.edgecolor": LINE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": SOFT,
    "ytick.labelcolor": SOFT,
    "grid.color": LINE,
    "grid.linewidth": 0.7,
}


@matplotlib.rc_context(STYLE)
def learning_curve(result: RunResult, points: Sequence[Point], name: str) -> str:
    """Return one metric on held-out examples over the rounds: the aggregate, the silos, the
    baselines.
    """
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.add_subplot()
    drawn = binned(points, MOST_POINTS, [name])
    if len(result.silos) <= MOST_LINES:
        for place, silo in enumerate(result.silos):
            colour, dashes = line_style(place)
            own = [point.silos.get(silo, {}) for point in drawn]
            _line(axes, drawn, own, name, color=colour, ls=dashes)
    else:
        _range(axes, drawn, name)
    _line(axes, drawn, [point.aggregate for point in drawn], name, color=INK, lw=2.6)
    for level, dashes in reference_levels(result, name):
        axes.axhline(level, color=INK, lw=1.1, ls=dashes)
    _finish(axes, f"{name} on held-out examples", points)
    return _svg(figure, f"curve-{name}")


@matplotlib.rc_context(STYLE)
def seconds(points: Sequence[Point]) -> str:
    """Return where the seconds of each round went: the slowest silo's training, and everything
    else.
    """
    drawn = binned(points, MOST_BARS)
    training = [point.training for point in drawn]
    rest = [max(point.seconds - point.training, 0.0) for point in drawn]
    return _bars(drawn, "seconds a round", training, rest, (COLOURS[0], COLOURS[1]))


@matplotlib.rc_context(STYLE)
def traffic(points: Sequence[Point]) -> str:
    """Return the bytes that travelled in each round, to the silos and from them."""
    drawn = binned(points, MOST_BARS)
    most = max(point.down + point.up for point in drawn)
    units = (("GB", 1e9), ("MB", 1e6), ("kB", 1e3))
    unit, scale = next((u, s) for u, s in units if most >= s or u == "kB")
    down = [point.down / scale for point in drawn]
    up = [point.up / scale for point in drawn]
    return _bars(drawn, f"{unit} a round", down, up, (COLOURS[5], COLOURS[2]))


def step(points: Sequence[Point], most: int) -> int:
    """Return how many rounds one point or bar stands for, where at most `most` are drawn."""
    return max(-(-len(points) // most), 1)


def line_style(place: int) -> tuple[str, Any]:
    """Return the colour and the dashes of the silo in that place."""
    return COLOURS[place % len(COLOURS)], DASHES[place // len(COLOURS) % len(DASHES)]


def reference_levels(result: RunResult, name: str) -> list[tuple[float, Any]]:
    """Return the level of the pooled model (dashed) and of the best silo alone (dotted), as far as
    known.
    """
    if result.baseline is None:
        return []
    pooled = [result.baseline.centralised.union] if result.baseline.centralised else []
    alone = known([scores.union for scores in result.baseline.silo_alone.values()], name)
    levels: list[tuple[float, Any]] = [(value, (0, (4, 3))) for value in known(pooled, name)]
    if alone:
        levels.append((best(result.shown, name, alone), (0, (1, 2))))
    return levels


def _line(
    axes: Axes, points: Sequence[Point], metrics: Sequence[Metrics], name: str, **style: Any
) -> None:
    pairs = list(zip(points, metrics, strict=True))
    values = [(_middle(point), v) for point, m in pairs for v in known([m], name)]
    marker = "o" if len(values) == 1 else None
    axes.plot([x for x, _ in values], [y for _, y in values], marker=marker, **{"lw": 1.3} | style)


def _range(axes: Axes, points: Sequence[Point], name: str) -> None:
    spans = [(_middle(point), point.spans[name]) for point in points if name in point.spans]
    xs = [x for x, _ in spans]
    low = [span[0] for _, span in spans]
    high = [span[1] for _, span in spans]
    if len(xs) == 1:
        axes.vlines(xs, low, high, color=COLOURS[0], lw=4, alpha=0.35)
    else:
        axes.fill_between(xs, low, high, color=COLOURS[0], alpha=0.25, lw=0)


def _middle(point: Point) -> float:
    return (point.first + point.round) / 2


def _bars(
    points: Sequence[Point],
    title: str,
    below: list[float],
    above: list[float],
    colours: tuple[str, str],
) -> str:
    figure = Figure(figsize=(SIZE[0], 2.7), layout="constrained")
    axes = figure.add_subplot()
    places = [_middle(point) for point in points]
    rounds = points[0].round - points[0].first + 1
    width = min(0.8, 0.15 * len(points)) * rounds  # a lone round is a bar, not a wall
    axes.bar(places, below, width, color=colours[0])
    axes.bar(places, above, width, bottom=below, color=colours[1])
    _finish(axes, title, points)
    _cut_outlier(axes, places, width, [b + a for b, a in zip(below, above, strict=True)])
    return _svg(figure, title)


def _cut_outlier(axes: Axes, places: list[float], width: float, totals: list[float]) -> None:
    """Let one bar end at the edge, its number beside it, where it would flatten all others: often a
    cold start.
    """
    most, second = [*sorted(totals, reverse=True), 0.0, 0.0][:2]
    if len(totals) > 2 and most > 3 * second > 0:
        axes.set_ylim(0, 1.5 * second)
        place = places[totals.index(most)]
        beside = "right" if place == places[-1] else "left"
        away = -0.7 * width if beside == "right" else 0.7 * width
        axes.text(place + away, 1.47 * second, f"{most:.3g}", ha=beside, va="top", fontsize=9)


def _finish(axes: Axes, title: str, points: Sequence[Point]) -> None:
    axes.set_title(title, loc="left", fontsize=11)
    axes.set_xlabel("round")
    axes.grid(axis="y")
    axes.tick_params(length=3)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=10, min_n_ticks=1))
    if points:
        axes.set_xlim(points[0].first - 0.6, points[-1].round + 0.6)


def _svg(figure: Figure, name: str) -> str:
    """Return a figure as an SVG element that scales with the page; the same figure gives the same
    text.
    """
    text = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(
            text, format="svg", transparent=True, metadata={"Date": None, "Creator": None}
        )
    svg = text.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(
        r'<g id="[^"]*"', "<g", svg
    )  # the same in every figure, and a page wants them once
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"| version="1.1"', "", svg).replace("xlink:href", "href")
    for stand_in, colour in PAGE_COLOURS.items():
        svg = svg.replace(stand_in, colour)
    return re.sub(
        r'width="[\d.]+pt" height="[\d.]+pt"', 'width="100%" aria-hidden="true"', svg, count=1
    )

"""The report's curves and bars, each a function from a result to SVG text that takes the page's own colours.

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

from server.run.result import Metrics, RoundRecord, RunResult

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
MOST_LINES: Final = 12
"""Silos drawn one by one; of more, the range is drawn."""
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
def learning_curve(result: RunResult, name: str) -> str:
    """Return one metric on held-out examples over the rounds: the aggregate, the silos, the baselines."""
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.add_subplot()
    if len(result.silos) <= MOST_LINES:
        for place, silo in enumerate(result.silos):
            colour, dashes = line_style(place)
            _line(
                axes,
                result.rounds,
                [r.metrics.get(silo, {}) for r in result.rounds],
                name,
                color=colour,
                ls=dashes,
            )
    else:
        _range(axes, result.rounds, name)
    _line(
        axes, result.rounds, [record.aggregate for record in result.rounds], name, color=INK, lw=2.6
    )
    for level, dashes in reference_levels(result, name):
        axes.axhline(level, color=INK, lw=1.1, ls=dashes)
    _finish(axes, f"{name} on held-out examples", [record.round for record in result.rounds])
    return _svg(figure, f"curve-{name}")


@matplotlib.rc_context(STYLE)
def seconds(result: RunResult) -> str:
    """Return where the seconds of each round went: the slowest silo's training, and everything else."""
    training = [max(record.seconds_training.values(), default=0.0) for record in result.rounds]
    rest = [max(record.seconds - t, 0.0) for record, t in zip(result.rounds, training, strict=True)]
    return _bars(result.rounds, "seconds a round", training, rest, (COLOURS[0], COLOURS[1]))


@matplotlib.rc_context(STYLE)
def traffic(result: RunResult) -> str:
    """Return the bytes that travelled in each round, to the silos and from them."""
    down = [float(sum(record.bytes_down.values())) for record in result.rounds]
    up = [float(sum(record.bytes_up.values())) for record in result.rounds]
    most = max(d + u for d, u in zip(down, up, strict=True))
    unit, scale = next(
        (u, s) for u, s in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)) if most >= s or u == "kB"
    )
    scaled = ([b / scale for b in down], [b / scale for b in up])
    return _bars(result.rounds, f"{unit} a round", *scaled, (COLOURS[5], COLOURS[2]))


def line_style(place: int) -> tuple[str, Any]:
    """Return the colour and the dashes of the silo in that place."""
    return COLOURS[place % len(COLOURS)], DASHES[place // len(COLOURS) % len(DASHES)]


def reference_levels(result: RunResult, name: str) -> list[tuple[float, Any]]:
    """Return the level of the pooled model (dashed) and of the best silo alone (dotted), as far as known."""
    if result.baseline is None:
        return []
    pooled = [result.baseline.centralised.union] if result.baseline.centralised else []
    alone = known([scores.union for scores in result.baseline.silo_alone.values()], name)
    best = [min(alone) if name == "loss" else max(alone)] if alone else []
    return [(v, (0, (4, 3))) for v in known(pooled, name)] + [(v, (0, (1, 2))) for v in best]


def known(metrics: Sequence[Metrics], name: str) -> list[float]:
    """Return the values of a metric where it is there and finite: what was NaN is null in `result.json`."""
    return [
        value for m in metrics if (value := m.get(name)) is not None and abs(value) < float("inf")
    ]


def _line(
    axes: Axes, rounds: Sequence[RoundRecord], metrics: Sequence[Metrics], name: str, **style: Any
) -> None:
    points = [(r.round, v) for r, m in zip(rounds, metrics, strict=True) for v in known([m], name)]
    marker = "o" if len(points) == 1 else None
    axes.plot([x for x, _ in points], [y for _, y in points], marker=marker, **{"lw": 1.3} | style)


def _range(axes: Axes, rounds: Sequence[RoundRecord], name: str) -> None:
    spans = [(r.round, values) for r in rounds if (values := known(list(r.metrics.values()), name))]
    xs, low, high = [x for x, _ in spans], [min(v) for _, v in spans], [max(v) for _, v in spans]
    if len(xs) == 1:
        axes.vlines(xs, low, high, color=COLOURS[0], lw=4, alpha=0.35)
    else:
        axes.fill_between(xs, low, high, color=COLOURS[0], alpha=0.25, lw=0)


def _bars(
    rounds: Sequence[RoundRecord],
    title: str,
    below: list[float],
    above: list[float],
    colours: tuple[str, str],
) -> str:
    figure = Figure(figsize=(SIZE[0], 2.7), layout="constrained")
    axes = figure.add_subplot()
    numbers = [record.round for record in rounds]
    width = min(0.8, 0.15 * len(numbers))  # a lone round is a bar, not a wall
    axes.bar(numbers, below, width, color=colours[0])
    axes.bar(numbers, above, width, bottom=below, color=colours[1])
    _finish(axes, title, numbers)
    _cut_outlier(axes, numbers, [b + a for b, a in zip(below, above, strict=True)])
    return _svg(figure, title)


def _cut_outlier(axes: Axes, rounds: list[int], totals: list[float]) -> None:
    """Let one bar end at the edge, its number beside it, where it would flatten all others: often a cold start."""
    most, second = [*sorted(totals, reverse=True), 0.0, 0.0][:2]
    if len(totals) > 2 and most > 3 * second > 0:
        axes.set_ylim(0, 1.5 * second)
        place, last = rounds[totals.index(most)], rounds[-1]
        side, beside = (-0.55, "right") if place == last else (0.55, "left")
        axes.text(place + side, 1.47 * second, f"{most:.3g}", ha=beside, va="top", fontsize=9)


def _finish(axes: Axes, title: str, rounds: list[int]) -> None:
    axes.set_title(title, loc="left", fontsize=11)
    axes.set_xlabel("round")
    axes.grid(axis="y")
    axes.tick_params(length=3)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=10, min_n_ticks=1))
    if rounds:
        axes.set_xlim(min(rounds) - 0.6, max(rounds) + 0.6)


def _svg(figure: Figure, name: str) -> str:
    """Return a figure as an SVG element that scales with the page; the same figure gives the same text."""
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

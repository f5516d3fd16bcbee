"""How the report's pictures are drawn: lines that differ by more than their hue, with their last
value at their end, and figures as SVG text that takes the page's own colours.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from server.run.shown import written

INK: Final = "#010203"
"""Stands for the page's colour of text, `var(--ink)`, and is replaced by it."""
SOFT: Final = "#010204"
LINE: Final = "#010205"
PAPER: Final = "#010206"
PAGE_COLOURS: Final = {
    INK: "var(--ink)",
    SOFT: "var(--soft)",
    LINE: "var(--line)",
    PAPER: "var(--paper)",
}
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
DASHES: Final = ((), (6, 2), (1.5, 1.8), (7, 2, 1.5, 2))
"""Lengths of lines and gaps, in widths of the line; each second silo has another."""
MARKERS: Final = ("", "o", "s")
"""None, then circles and squares: for lines whose dashes have been used before."""
HIGHEST: Final = 1e12
"""Of a value that is drawn: the loss of a run that diverged would leave no room for the others."""
SIZE: Final = (4.9, 3.1)
LABEL_SIZE: Final = 8
"""Points of the numbers at the ends of lines."""
LABEL_GAP: Final = 0.052
"""Between two of them, as a share of the axis's height."""

STYLE: Final[dict[Any, Any]] = {
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


@dataclass(frozen=True)
class LineStyle:
    """How one line is drawn, in a picture and in its legend: no two of twelve differ by hue alone."""

    colour: str
    dashes: tuple[float, ...] = ()
    marker: str = ""
    width: float = 1.4

    @property
    def for_matplotlib(self) -> dict[str, Any]:
        """The style as matplotlib's `plot` takes it."""
        style: dict[str, Any] = {"color": self.colour, "lw": self.width}
        if self.dashes:
            style["ls"] = (0, self.dashes)
        if self.marker:
            style |= {"marker": self.marker, "ms": 3.5}
        return style

    @property
    def page_colour(self) -> str:
        """The colour as the page has it."""
        return PAGE_COLOURS.get(self.colour, self.colour)

    @property
    def dash_array(self) -> str:
        """The dashes of its sample in a legend, in pixels."""
        return " ".join(f"{length * 1.5:g}" for length in self.dashes)


def line_style(place: int) -> LineStyle:
    """Return the style of the line in that place."""
    marker = MARKERS[place // len(DASHES) % len(MARKERS)]
    return LineStyle(COLOURS[place % len(COLOURS)], DASHES[place % len(DASHES)], marker)


AGGREGATE: Final = LineStyle(INK, width=2.6)
"""All silos together."""
POOLED: Final = LineStyle(INK, (4, 3), width=1.1)
BEST_ALONE: Final = LineStyle(INK, (1, 2), width=1.1)
RANGE: Final = LineStyle(COLOURS[0], width=9)
"""The range of many silos, as its sample in the legend."""


@dataclass(frozen=True)
class EndLabel:
    """A number that stands at the end of a line, at its height."""

    value: float
    colour: str


class Lines:
    """The lines of one picture; `finish` puts their last values at their ends.

    Each line's values stand at the x of `add`; those that are not known are left out.
    """

    def __init__(self, axes: Axes) -> None:
        self._axes = axes
        self._ends: list[EndLabel] = []
        self._values: list[float] = []

    @property
    def drawn(self) -> bool:
        """Whether there is anything in the picture."""
        return bool(self._values)

    def add(self, xs: Sequence[float], ys: Sequence[float], style: LineStyle) -> None:
        """Draw a line; one of a single point is a dot. Values beyond `HIGHEST` are left out."""
        kept = [(x, y) for x, y in zip(xs, ys, strict=True) if abs(y) <= HIGHEST]
        if not kept:
            return
        xs = [x for x, _ in kept]
        ys = [y for _, y in kept]
        how = style.for_matplotlib
        if len(ys) == 1:
            how["marker"] = how.get("marker", "o")
        # A marker every few points: enough to tell lines apart, few enough to see them.
        self._axes.plot(xs, ys, markevery=max(len(ys) // 8, 1), **how)
        self._note(ys, style)

    def level(self, y: float, style: LineStyle) -> None:
        """Draw a horizontal line over the whole picture."""
        if abs(y) > HIGHEST:
            return
        self._axes.axhline(y, **style.for_matplotlib)
        self._note([y], style)

    def range(self, xs: Sequence[float], low: Sequence[float], high: Sequence[float]) -> None:
        """Fill the range between two lines, cut at `HIGHEST`."""
        low = [min(max(y, -HIGHEST), HIGHEST) for y in low]
        high = [min(max(y, -HIGHEST), HIGHEST) for y in high]
        if len(xs) == 1:
            self._axes.vlines(xs, low, high, color=COLOURS[0], lw=4, alpha=0.35)
        else:
            self._axes.fill_between(xs, low, high, color=COLOURS[0], alpha=0.25, lw=0)
        self._values += [*low, *high]

    def finish(self, *, share: bool) -> float:
        """Set the axis and label the ends; return where the axis begins."""
        bottom, top = limits(self._values, share=share)
        if bottom < top:
            self._axes.set_ylim(bottom, top)
        self.label_ends()
        return bottom

    def _note(self, ys: Sequence[float], style: LineStyle) -> None:
        self._values += ys
        self._ends.append(EndLabel(ys[-1], style.colour))

    def label_ends(self) -> None:
        """Write each line's last value at its end, on the axis as it is."""
        bottom, top = self._axes.get_ylim()
        ends = sorted(self._ends, key=lambda end: end.value)
        heights = [(end.value - bottom) / (top - bottom) for end in ends]
        for end, height in zip(ends, spread(heights, LABEL_GAP), strict=True):
            self._axes.text(
                1.015,
                height,
                written(end.value),
                color=end.colour,
                transform=self._axes.transAxes,
                va="center",
                fontsize=LABEL_SIZE,
            )


def limits(values: Sequence[float], *, share: bool) -> tuple[float, float]:
    """Return where an axis begins and ends so that a picture neither flattens nor exaggerates.

    A share between 0 and 1 of which more is better ends at 1 where it comes near, and begins at 0
    or, where all of it is high, at a whole tenth. Other values that are never negative begin at 0
    where that costs less than half of the height.
    """
    if not values:
        return 0.0, 1.0
    low = min(values)
    high = max(values)
    if share and low >= 0 and high <= 1:
        bottom = 0.0 if low < 0.5 else math.floor(10 * low) / 10
        top = 1.0 if high > 0.5 else math.ceil(10 * high + 0.2) / 10
        return bottom, top
    margin = 0.06 * (high - low) or 0.05 * abs(high) or 0.5
    bottom = 0.0 if 0 <= low < high / 2 else low - margin
    return bottom, high + margin


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """Return ascending heights moved apart so that each is at least `gap` above the one before,
    inside 0 to 1 as far as there is room.
    """
    moved: list[float] = []
    for height in heights:
        lowest = moved[-1] + gap if moved else -math.inf
        moved.append(max(height, lowest))
    ceiling = 1.0
    for place in range(len(moved) - 1, -1, -1):
        moved[place] = min(moved[place], ceiling)
        ceiling = moved[place] - gap
    return moved


def new_axes(size: tuple[float, float] = SIZE) -> tuple[Figure, Axes]:
    """Return a figure and its axes."""
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.add_subplot()


def finish(axes: Axes, title: str, first: float, last: float, label: str = "round") -> None:
    """Give a picture its title, its grid and its axis of rounds or of something else."""
    axes.set_title(title, loc="left", fontsize=11)
    axes.set_xlabel(label)
    axes.grid(axis="y")
    axes.tick_params(length=3)
    whole = label == "round"
    axes.xaxis.set_major_locator(
        MaxNLocator(integer=whole, nbins=10 if whole else 6, min_n_ticks=1)
    )
    axes.set_xlim(first, last)


def svg(figure: Figure, name: str) -> str:
    """Return a figure as an SVG element that scales with the page; the same figure gives the same
    text.
    """
    text = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(
            text, format="svg", transparent=True, metadata={"Date": None, "Creator": None}
        )
    drawn = text.getvalue()
    drawn = re.sub(r"<metadata>.*?</metadata>", "", drawn[drawn.index("<svg") :], flags=re.DOTALL)
    # The same in every figure, and a page wants them once.
    drawn = re.sub(r'<g id="[^"]*"', "<g", drawn)
    drawn = re.sub(r' xmlns(:xlink)?="[^"]*"| version="1.1"', "", drawn)
    drawn = drawn.replace("xlink:href", "href")
    for stand_in, colour in PAGE_COLOURS.items():
        drawn = drawn.replace(stand_in, colour)
    return re.sub(
        r'width="[\d.]+pt" height="[\d.]+pt"', 'width="100%" aria-hidden="true"', drawn, count=1
    )

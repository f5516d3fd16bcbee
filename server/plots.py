"""The report's pictures, each a function from a result to SVG text that fits light and dark pages."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from server.result import RoundRecord, RunResult

INK, FAINT = "#7d8590", "#7d859055"
"""Text and grid lines that can be read on white and on near black."""
COLOURS = ("#4c9be8", "#e08e45", "#3fae8f", "#c678b6", "#c9a227", "#8c8ff0", "#d1605e", "#6fb1c7")
"""Okabe and Ito's palette, lightened: told apart by people with any colour vision."""
MOST_LINES = 12
"""Silos drawn one by one; of more, the range is drawn."""
WIDTH = 7.6

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
}


@matplotlib.rc_context(STYLE)
def learning_curves(result: RunResult) -> str:
    """Return accuracy and loss on held-out examples over the rounds: the aggregate, the silos, the baselines."""
    figure = _figure(3.6)
    names = [name for name in ("accuracy", "loss") if any(name in r.aggregate for r in result.rounds)]
    for place, name in enumerate(names or ["loss"]):
        axes = figure.add_subplot(1, max(len(names), 1), place + 1)
        _curves(axes, result, name)
    return _svg(figure, "curves")


@matplotlib.rc_context(STYLE)
def partition(result: RunResult) -> str:
    """Return the training examples of each class at each silo as a picture, darker for more."""
    silos, classes = list(result.partition), result.classes
    table = [result.partition[silo] for silo in silos]
    figure = _figure(min(1.0 + 0.34 * len(silos), 12))
    axes = figure.add_subplot()
    axes.imshow(table, aspect="auto", cmap="Blues", vmin=0)
    axes.set_yticks(range(len(silos)), silos, fontsize=9.5 if len(silos) <= 30 else 5)
    axes.set_xticks(range(len(classes)), classes)
    axes.set_xlabel("class")
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    if len(silos) * len(classes) <= 400:
        most = max((max(row) for row in table), default=1) or 1
        for y, row in enumerate(table):
            for x, count in enumerate(row):
                colour = "white" if count > 0.55 * most else "#44506b"
                axes.text(x, y, str(count), ha="center", va="center", color=colour, fontsize=8.5)
    return _svg(figure, "partition")


@matplotlib.rc_context(STYLE)
def costs(result: RunResult) -> str:
    """Return where the seconds of each round went, and the bytes that travelled."""
    figure = _figure(3.0)
    rounds = [record.round for record in result.rounds]
    training = [max(record.seconds_training.values(), default=0.0) for record in result.rounds]
    rest = [max(record.seconds - t, 0.0) for record, t in zip(result.rounds, training, strict=True)]
    axes = figure.add_subplot(1, 2, 1)
    axes.bar(rounds, training, color=COLOURS[0], label="training, slowest silo")
    axes.bar(rounds, rest, bottom=training, color=COLOURS[1], label="everything else")
    _label(axes, "seconds a round")
    axes = figure.add_subplot(1, 2, 2)
    up = [sum(record.bytes_up.values()) for record in result.rounds]
    down = [sum(record.bytes_down.values()) for record in result.rounds]
    unit, scale = ("MB", 1e6) if max([*up, *down], default=0) >= 1e6 else ("kB", 1e3)
    axes.bar(rounds, [b / scale for b in down], color=COLOURS[5], label="to the silos")
    axes.bar(rounds, [b / scale for b in up], bottom=[b / scale for b in down], color=COLOURS[2], label="from them")
    _label(axes, f"{unit} a round")
    return _svg(figure, "costs")


def _curves(axes: Axes, result: RunResult, name: str) -> None:
    rounds = result.rounds
    if len(result.silos) <= MOST_LINES:
        for number, silo in enumerate(result.silos):
            xs, ys = _points(rounds, silo, name)
            axes.plot(xs, ys, color=COLOURS[number % len(COLOURS)], lw=1, alpha=0.75, label=silo)
    else:
        ranges = [[m[name] for m in record.metrics.values() if name in m] or [math.nan] for record in rounds]
        numbers = [record.round for record in rounds]
        axes.fill_between(numbers, list(map(min, ranges)), list(map(max, ranges)), color=FAINT, label="range of silos")
    numbers = [record.round for record in rounds if name in record.aggregate]
    values = [record.aggregate[name] for record in rounds if name in record.aggregate]
    marker = "o" if len(numbers) == 1 else None
    axes.plot(numbers, values, color=INK, lw=2.4, marker=marker, label="mean over silos")
    baseline = result.baseline
    if baseline is not None and name == "accuracy":
        if baseline.centralised:
            axes.axhline(baseline.centralised.union[name], color=INK, lw=1, ls=(0, (4, 3)), label="all data pooled")
        if baseline.silo_alone:
            best = max(scores.union[name] for scores in baseline.silo_alone.values())
            axes.axhline(best, color=INK, lw=1, ls=(0, (1, 2)), label="best silo alone")
    _label(axes, f"{name} on held-out examples")


def _points(rounds: Sequence[RoundRecord], silo: str, name: str) -> tuple[list[int], list[float]]:
    known = [(r.round, r.metrics[silo][name]) for r in rounds if name in r.metrics.get(silo, {})]
    return [x for x, _ in known], [y for _, y in known]


def _label(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=10, color=INK)
    axes.set_xlabel("round")
    axes.grid(axis="y")
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    columns = 2 if len(axes.get_legend_handles_labels()[0]) <= 4 else 3
    axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=columns, labelcolor=INK)


def _figure(height: float) -> Figure:
    return Figure(figsize=(WIDTH, height), layout="constrained")


def _svg(figure: Figure, name: str) -> str:
    """Return a figure as an SVG element that scales with the page; the same figure gives the same text."""
    text = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    return re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', 'width="100%"', svg, count=1)

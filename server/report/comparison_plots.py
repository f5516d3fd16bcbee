"""The curves of runs side by side, as SVG text: over rounds, over seconds and over bytes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import matplotlib

from server.report.drawing import STYLE, Lines, finish, line_style, new_axes, svg
from server.report.overview import MOST_LINES
from server.report.run_comparison import ComparedRun, RunComparison
from server.run.shown import in_words, is_less_better, value_of, written

MOST_POINTS: Final = 200
"""Points of a curve; of more rounds, each so many are skipped, and the last one is drawn."""

TIMES: Final[Sequence[tuple[str, float]]] = (("hours", 3600.0), ("minutes", 60.0), ("seconds", 1.0))
SIZES: Final[Sequence[tuple[str, float]]] = (("GB", 1e9), ("MB", 1e6), ("kB", 1e3))


@dataclass(frozen=True)
class Axis:
    """A horizontal axis: its label, and where each round of a run stands on it."""

    label: str
    places: Callable[[ComparedRun], Sequence[float]]


def axes_of(comparison: RunComparison) -> list[Axis]:
    """Return the axes over which the headline is drawn: rounds, time, bytes."""
    longest = max(sum(point.seconds for point in run.points) for run in comparison.runs)
    time, each = next(unit for unit in TIMES if longest >= 3 * unit[1] or unit[1] == 1)
    most = max(run.moved for run in comparison.runs)
    unit, size = next(one for one in SIZES if most >= one[1] or one[0] == "kB")
    return [
        Axis("round", lambda run: [float(point.round) for point in run.points]),
        Axis(time, lambda run: _sums(point.seconds / each for point in run.points)),
        Axis(
            f"{unit} travelled",
            lambda run: _sums((point.up + point.down) / size for point in run.points),
        ),
    ]


def drawn_runs(comparison: RunComparison) -> list[ComparedRun]:
    """Return the runs that are drawn: of many, those that are best at the end."""
    runs = comparison.runs
    if len(runs) <= MOST_LINES:
        return runs
    name = comparison.headline
    if name is None:
        return runs[:MOST_LINES]
    sign = 1 if is_less_better(comparison.shown, name) else -1
    ranked = sorted(runs, key=lambda run: sign * (value_of(run.final, name) or 0.0))
    chosen = ranked[:MOST_LINES]
    return [run for run in runs if run in chosen]


@matplotlib.rc_context(STYLE)
def curves(comparison: RunComparison, name: str, axis: Axis) -> str:
    """Return one metric of each run over an axis; empty where none has it."""
    figure, axes = new_axes()
    lines = Lines(axes)
    furthest = 0.0
    for place, run in enumerate(drawn_runs(comparison)):
        xs, ys = _thinned(run, name, axis.places(run))
        furthest = max(furthest, *xs) if xs else furthest
        lines.add(xs, ys, line_style(place))
    if not lines.drawn:
        return ""
    begins = lines.finish(share=not is_less_better(comparison.shown, name))
    title = in_words(name)
    if begins > 0:
        title += f" (axis from {written(begins)})"
    finish(axes, title, 0.0, furthest * 1.02 or 1.0, axis.label)
    return svg(figure, f"compare-{name}-{axis.label}")


def _sums(values: Iterable[float]) -> list[float]:
    return list(itertools.accumulate(values))


def _thinned(
    run: ComparedRun, name: str, places: Sequence[float]
) -> tuple[list[float], list[float]]:
    pairs = []
    for point, x in zip(run.points, places, strict=True):
        value = value_of(point.aggregate, name)
        if value is not None:
            pairs.append((x, value))
    step = max(-(-len(pairs) // MOST_POINTS), 1)
    # From the end, so that the last round is there.
    kept = pairs[::-1][::step][::-1]
    return [x for x, _ in kept], [y for _, y in kept]

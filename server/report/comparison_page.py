"""The page of runs side by side: self-contained, with their curves, costs and differences."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, StrictUndefined

from conf.errors import CheckpointError
from server.report.comparison_plots import axes_of, curves, drawn_runs
from server.report.comparison_template import PAGE
from server.report.drawing import line_style
from server.report.headline import EXAMPLES, EXAMPLES_OF_ROUNDS
from server.report.overview import MOST_CURVES
from server.report.run_comparison import ComparedRun, RunComparison
from server.report.stylesheet import STYLESHEET
from server.report.tables import MOST_ROWS
from server.run.files import write_atomic
from server.run.shown import CENTRAL, direction, in_words, score, value_of
from server.run.units import duration, size


def write_page(comparison: RunComparison, path: Path) -> Path:
    """Write the page and return its path.

    Raises CheckpointError where it can't be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(
            "MDW-560",
            f"{path} can't be written: {error.strerror or error}.",
            "Name another file: page=FILE.",
        ) from error
    write_atomic(path, html(comparison, path.parent))
    return path


def html(comparison: RunComparison, beside: Path) -> str:
    """Return the page as it stands in the folder `beside`, from where it leads to the reports."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    drawn = drawn_runs(comparison)
    return environment.from_string(PAGE.lstrip()).render(
        stylesheet=STYLESHEET,
        title=f"{len(comparison.runs)} runs side by side",
        kicker=_kicker(comparison),
        headline=headline(comparison),
        notes=comparison.notes,
        columns=_columns(comparison),
        rows=_rows(comparison, beside),
        left_out=max(len(comparison.runs) - MOST_ROWS, 0),
        legend_of_columns=_legend_of_columns(comparison),
        pictures=_pictures(comparison),
        legend=[(comparison.label(run), line_style(place)) for place, run in enumerate(drawn)],
        not_drawn=len(drawn) < len(comparison.runs),
        where_curves=EXAMPLES_OF_ROUNDS,
        differences=difference_rows(comparison),
    )


def headline(comparison: RunComparison) -> str:
    """Return the comparison in one sentence."""
    count = len(comparison.runs)
    best = comparison.best
    name = comparison.headline
    if best is None or name is None:
        return f"{count} runs side by side"
    return (
        f"Of {count} runs {comparison.label(best)} is best: {in_words(name)} {score(best.final, name, 4)} on"
        f" {EXAMPLES} ({direction(comparison.shown, name)})"
    )


def difference_rows(comparison: RunComparison, most: int = MOST_ROWS) -> list[list[str]]:
    """Return the settings in which runs differ as a table with a head, whichever way is shorter:
    a row for each key, or for each run.
    """
    if not comparison.differences:
        return []
    names = [run.name for run in comparison.runs]
    rows = [["", *names], *([one.key, *one.values] for one in comparison.differences)]
    if len(names) > len(comparison.differences):
        rows = [list(column) for column in zip(*rows, strict=True)]
    return rows[: most + 1]


def _kicker(comparison: RunComparison) -> str:
    tasks = dict.fromkeys(run.result.task for run in comparison.runs)
    strategies = dict.fromkeys(run.result.strategy for run in comparison.runs)
    return f"{', '.join(tasks)} · {', '.join(strategies)} · {len(comparison.runs)} runs"


def _columns(comparison: RunComparison) -> list[str]:
    return [in_words(name) for name in _metric_names(comparison)]


def _metric_names(comparison: RunComparison) -> list[str]:
    """Return the metrics that have a column: those shown, then those of a task's own test set."""
    names = [*comparison.shown, *(f"{CENTRAL}{name}" for name in comparison.shown)]
    return [
        name
        for name in names
        if any(value_of(run.final, name) is not None for run in comparison.runs)
    ]


def _rows(comparison: RunComparison, beside: Path) -> list[dict[str, Any]]:
    most = max((run.moved for run in comparison.runs), default=0.0) or 1.0
    names = _metric_names(comparison)
    best = comparison.best
    return [
        {
            "name": run.name,
            "report": _report_of(run, beside),
            "cells": [score(run.final, name, 4) for name in names],
            "rounds": f"{run.result.rounds:,}",
            "time": duration(run.result.seconds),
            "moved": size(round(run.moved)),
            "share": f"{100 * run.moved / most:.1f}",
            "status": run.result.status.replace("_", " "),
            "best": run is best,
        }
        for run in comparison.runs[:MOST_ROWS]
    ]


def _report_of(run: ComparedRun, beside: Path) -> str:
    """Return the way from the page to a run's report; empty where there is none."""
    report = run.folder / "report.html"
    if not report.is_file():
        return ""
    return quote(Path(os.path.relpath(report.resolve(), beside.resolve())).as_posix())


def _legend_of_columns(comparison: RunComparison) -> str:
    ways = [f"{in_words(name)}: {direction(comparison.shown, name)}" for name in comparison.shown]
    central = any(name.startswith(CENTRAL) for name in _metric_names(comparison))
    where = f"Metrics at the end, on the silos' {EXAMPLES}"
    if central:
        where += "; central: on the task's own test set"
    return f"{where}. {'; '.join(ways)}. Time: of all rounds. Travelled: arrays, both ways."


def _pictures(comparison: RunComparison) -> list[tuple[str, str]]:
    """Return the pictures, each with its words: every metric over rounds, the first one over time
    and bytes too.
    """
    pictures = []
    axes = axes_of(comparison)
    for number, name in enumerate(list(comparison.shown)[:MOST_CURVES]):
        for axis in axes if number == 0 else axes[:1]:
            drawn = curves(comparison, name, axis)
            if drawn:
                pictures.append((drawn, f"{in_words(name)} of each run by {axis.label}"))
    return pictures

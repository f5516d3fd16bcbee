"""The verb that puts runs side by side, and the end of a sweep, which does the same."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from azureml_jobs.cli.arguments import Arguments
from azureml_jobs.cli.finished_runs import on_a_line, output_of
from azureml_jobs.cli.table import columns
from conf.errors import MeadowError

if TYPE_CHECKING:
    from server.report.run_comparison import RunComparison

MOST_KEYS: Final = 12
"""Settings that a terminal shows; the page has all."""
MOST_RUNS: Final = 60


def compare(arguments: Arguments) -> int:
    """Print runs side by side, and write their page."""
    from server.report.run_comparison import compare

    output = output_of(arguments)
    page = arguments.get("page") or None
    comparison = compare(*arguments.words, output=output, page=page)
    if arguments.has("--json"):
        print(json.dumps(comparison.to_json(), indent=1))
        return 0
    print("\n".join(lines_of(comparison)))
    return 0


def end_of_sweep(folders: Sequence[Path]) -> None:
    """Print the runs of a sweep side by side, and write their page beside them.

    A comparison that can't be made does not make a sweep a failure: it is said.
    """
    from server.report.run_comparison import PAGE, compare

    try:
        comparison = compare(*folders, page=folders[0].parent / PAGE)
    except MeadowError as error:
        print(f"The runs of the sweep could not be compared: {error}", file=sys.stderr)
        return
    print("\n".join(["", *lines_of(comparison)]), flush=True)


def lines_of(comparison: RunComparison) -> list[str]:
    """Return the comparison as lines for a terminal or a log."""
    lines = columns(_results(comparison))
    settings = _settings(comparison)
    if settings:
        lines += ["", *columns(settings)]
    more = len(comparison.differences) - MOST_KEYS
    if more > 0:
        lines.append(f"and {more} more settings, which the page shows")
    lines += ["", *map(on_a_line, comparison.notes)] if comparison.notes else []
    return [*lines, f"page: {comparison.page}"]


def _results(comparison: RunComparison) -> list[list[str]]:
    from server.run.shown import score
    from server.run.units import duration, size

    titles = ["run", *comparison.shown, "rounds", "time", "travelled", "status"]
    rows = [[on_a_line(title) for title in titles]]
    best = comparison.best
    for run in comparison.runs[:MOST_RUNS]:
        status = run.result.status.replace("_", " ")
        cells = [run.name, *(score(run.final, name, 4) for name in comparison.shown)]
        cells += [str(run.result.rounds), duration(run.result.seconds), size(round(run.moved))]
        cells.append(f"{status}, best {comparison.headline}" if run is best else status)
        rows.append([on_a_line(cell) for cell in cells])
    return rows


def _settings(comparison: RunComparison) -> list[list[str]]:
    """Return the settings in which the runs differ, whichever way is shorter; empty without any."""
    differences = comparison.differences[:MOST_KEYS]
    if not differences:
        return []
    names = [run.name for run in comparison.runs[:MOST_RUNS]]
    rows = [["setting", *names], *([one.key, *one.values[:MOST_RUNS]] for one in differences)]
    if len(names) > len(differences):
        rows = [list(column) for column in zip(*rows, strict=True)]
        rows[0][0] = "run"
    return [[on_a_line(cell) or "–" for cell in row] for row in rows]

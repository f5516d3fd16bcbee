"""`report.html`: one self-contained page that says what a run was worth, for someone who did not
make it.

Everything comes from `result.json` and one pass over `history.jsonl`. Names and reasons in them are
others' text: the template escapes them. The page's size is bounded: of many rounds, bars and curves
show means of several, and tables say what they leave out.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from server.report import plots
from server.report.headline import EXAMPLES, headline, in_people_s_words, verdict
from server.report.overview import MOST_LINES, Overview, Point, overview
from server.report.page import PAGE
from server.report.software_table import mixed_software, software_table
from server.report.tables import (
    MOST_ROWS,
    comparison,
    failures,
    partition,
    silo_rows,
)
from server.run.files import write_atomic
from server.run.history import rounds_of
from server.run.result import RunResult
from server.run.shown import CENTRAL, Known, headline_of, known, score
from server.run.units import duration, size

STATUS = {"stopped_early": "stopped early, as configured", "running": "still running"}


def write_report(folder: Path, rounds: Overview | None = None) -> Path:
    """Write a run's report and return its path; `rounds` spares reading the history again.

    Raises CheckpointError where `result.json` or `history.jsonl` can't be read, or do not belong
    together.
    """
    result = RunResult.read(folder)
    if rounds is None:
        rounds = overview(rounds_of(folder, result), result.silos, result.shown)
    path = folder / "report.html"
    write_atomic(path, html(result, rounds))
    return path


def html(result: RunResult, rounds: Overview) -> str:
    """Return the page for a result and its rounds, whatever of them is there."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    points = rounds.points
    curves = [
        (plots.learning_curve(result, points, name), _curve_in_words(points, name))
        for name in rounds.drawn
        if known([point.aggregate for point in points], name)
    ]
    return environment.from_string(PAGE.lstrip()).render(
        result=result,
        status=STATUS.get(result.status, result.status),
        headline=headline(result, points[-1].aggregate if points else {}),
        verdict=verdict(result),
        facts=_facts(result, points),
        comparison=comparison(result),
        partition=partition(result),
        silo_rows=silo_rows(rounds.silos, result.shown) if points else [],
        failures=failures(rounds.failed),
        more=_left_out(result, rounds),
        curves=curves,
        curve_step=plots.step(points, plots.MOST_POINTS),
        bar_step=plots.step(points, plots.MOST_BARS),
        costs=_costs(points) if points else [],
        legend=_legend(result),
        spread=len(result.silos) > MOST_LINES,
        resume=_resume(result),
        software=software_table(result.software),
        mixed_software=mixed_software(result.software),
    )


def _left_out(result: RunResult, rounds: Overview) -> dict[str, int]:
    """Return how many rows each table leaves out."""
    alone = len(result.baseline.silo_alone) if result.baseline else 0
    rows = {
        "partition": len(result.partition),
        "silos": len(rounds.silos),
        "failures": len(rounds.failed),
        "alone": alone,
    }
    return {table: max(count - MOST_ROWS, 0) for table, count in rows.items()}


def _curve_in_words(points: Sequence[Point], name: str) -> str:
    """Return what a curve shows, for someone who does not see it."""
    values = [(point.round, v) for point in points for v in known([point.aggregate], name)]
    first, begin = values[0]
    last, end = values[-1]
    return (
        f"{in_people_s_words(name)} of all silos' {EXAMPLES}: {begin:.3f} after round {first},"
        f" {end:.3f} after round {last}."
    )


def _costs(points: Sequence[Point]) -> list[tuple[str, str]]:
    """Return the two pictures of what the rounds cost, each with its words."""
    count = len(points)
    took = sum(point.seconds for point in points) / count
    trained = sum(point.training for point in points) / count
    down = round(sum(point.down for point in points) / count)
    up = round(sum(point.up for point in points) / count)
    return [
        (
            plots.seconds(points),
            f"A round took {took:.1f} seconds on average, of which the slowest silo {trained:.1f}.",
        ),
        (
            plots.traffic(points),
            f"On average {size(down)} went to the silos in a round, and {size(up)} came back.",
        ),
    ]


def _legend(result: RunResult) -> list[dict[str, str]]:
    """Return the legend of the curves: a name, and the colour and dashes of its sample line."""
    items = [{"name": "all silos", "colour": "var(--ink)", "dash": "", "width": "3"}]
    if len(result.silos) <= MOST_LINES:
        for place, silo in enumerate(result.silos):
            dash = ("", "6 2", "2 2")[place // len(plots.COLOURS) % 3]
            items.append(
                {"name": silo, "colour": plots.line_style(place)[0], "dash": dash, "width": "2"}
            )
    else:
        items.append(
            {
                "name": "from the worst silo to the best",
                "colour": plots.COLOURS[0],
                "dash": "",
                "width": "9",
            }
        )
    if result.baseline is not None and result.baseline.centralised is not None:
        items.append(
            {"name": "all data pooled", "colour": "var(--ink)", "dash": "5 3", "width": "1.5"}
        )
    if result.baseline is not None and result.baseline.silo_alone:
        items.append(
            {"name": "best silo alone", "colour": "var(--ink)", "dash": "1.5 2.5", "width": "1.5"}
        )
    return items


def _facts(result: RunResult, points: Sequence[Point]) -> list[tuple[str, str]]:
    """Return the few numbers that stand first: what it reached, then what it took."""
    facts = _final_facts(result)
    for name, count in (("round", len(points)), ("silo", len(result.silos))):
        facts.append((name if count == 1 else f"{name}s", f"{count:,}"))
    if result.partition:
        facts.append(("training examples", f"{sum(map(sum, result.partition.values())):,}"))
    if "parameters" in result.model:
        facts.append(("parameters", f"{result.model['parameters']:,}"))
    if points:
        took = result.seconds or sum(point.seconds for point in points)
        facts.append(("for all rounds", duration(took)))
        moved = sum(point.up + point.down for point in points)
        facts.append(("travelled, both ways", size(round(moved))))
    return facts


def _final_facts(result: RunResult) -> list[tuple[str, str]]:
    """Return the headline metric at the end, of the silos' examples and of the task's test set."""
    facts = []
    name = headline_of(result.shown, result.final)
    if name is not None:
        facts.append((f"{in_people_s_words(name)}, {EXAMPLES}", score(result.final, name)))
    central: Known = {name: result.final.get(f"{CENTRAL}{name}") for name in result.shown}
    name = headline_of(result.shown, central)
    if name is not None:
        facts.append((f"{in_people_s_words(name)}, the task's test set", score(central, name)))
    return facts


def _resume(result: RunResult) -> str:
    """Return the words that resume a run that ended before its time."""
    ended = result.status in ("interrupted", "failed") and result.rounds
    return f"run.resume={result.run_id}" if ended else ""

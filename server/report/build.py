"""`report.html`: one self-contained page that says what a run was worth, for someone who did not
make it.

Everything comes from `result.json` and one pass over `history.jsonl`. Names and reasons in them are
others' text: the template escapes them. The page's size is bounded: of many rounds, bars and curves
show means of several, and tables say what they leave out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from jinja2 import Environment, StrictUndefined, Template

from conf.errors import CheckpointError
from server.report import plots
from server.report.decisions import decisions
from server.report.drawing import AGGREGATE, BEST_ALONE, POOLED, RANGE, LineStyle, line_style
from server.report.gains import gains
from server.report.headline import EXAMPLES, EXAMPLES_OF_ROUNDS, headline, verdict
from server.report.overview import MOST_LINES, Overview, Point, overview
from server.report.page import PAGE
from server.report.software_table import mixed_software, software_table
from server.report.spent_privacy import spent_privacy
from server.report.stylesheet import STYLESHEET
from server.report.tables import (
    MOST_ROWS,
    comparison,
    failures,
    final_rows,
    movement_rows,
    named_rows,
    partition,
    silo_rows,
)
from server.report.trained import Config, read_config, what_was_trained
from server.run.files import write_atomic
from server.run.history import rounds_of
from server.run.result import RunResult
from server.run.shown import (
    CENTRAL,
    Known,
    headline_of,
    in_words,
    known,
    partial_sentence,
    score,
    written,
)
from server.run.units import duration, size

if TYPE_CHECKING:
    from server.run.audit import Outside
    from server.run.verdict import Verdict

FILES: Final = (
    "config.yaml",
    "result.json",
    "history.jsonl",
    "metrics.jsonl",
    "ledger.jsonl",
    "model/card.md",
    "model/model.safetensors",
    "logs",
)
"""Of a run's folder, what the page leads to where it is there."""
STATUS = {"stopped_early": "stopped early, as configured", "running": "still running"}


@dataclass(frozen=True)
class Surroundings:
    """What a page says beside the result: the configuration, the files in the run's folder, and
    what the check of its ledger said.
    """

    config: Config = field(default_factory=dict)
    files: Sequence[str] = ()
    audit: Verdict | None = None


def write_report(
    folder: Path, rounds: Overview | None = None, outside: Outside | None = None
) -> Path:
    """Write a run's report and return its path; `rounds` spares reading the history again.

    Its ledger is verified for it, with what is known `outside` of the folder. Raises
    CheckpointError where `result.json` or `history.jsonl` can't be read, or do not belong together.
    """
    result = RunResult.read(folder)
    if rounds is None:
        rounds = overview(rounds_of(folder, result), result.silos, result.shown)
    path = folder / "report.html"
    files = [name for name in FILES if (folder / name).exists()]
    write_atomic(
        path,
        html(result, rounds, Surroundings(read_config(folder), files, _audit(folder, outside))),
    )
    return path


def _audit(folder: Path, outside: Outside | None) -> Verdict | None:
    """Return what the ledger says, None where there is none to read."""
    from server.run.audit import audit

    try:
        return audit(folder, outside)
    except (CheckpointError, OSError):
        return None


@cache
def _template() -> Template:
    """Return the page's template, which takes a tenth of a second to compile."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return environment.from_string(PAGE.lstrip())


def html(result: RunResult, rounds: Overview, beside: Surroundings | None = None) -> str:
    """Return the page for a result and its rounds, whatever of them is there."""
    beside = beside or Surroundings()
    points = rounds.points
    curves = [
        (plots.learning_curve(result, points, name), _curve_in_words(points, name))
        for name in rounds.drawn
        if known([point.aggregate for point in points], name)
    ]
    return _template().render(
        stylesheet=STYLESHEET,
        result=result,
        status=STATUS.get(result.status, result.status),
        headline=headline(result, points[-1].aggregate if points else {}),
        verdict=verdict(result),
        facts=_facts(result, points),
        trained=what_was_trained(beside.config),
        finals=final_rows(result),
        where_final=_where_final(result),
        where_models=EXAMPLES,
        where_curves=EXAMPLES_OF_ROUNDS,
        decisions=decisions(result),
        comparison=comparison(result),
        gains=gains(result),
        no_comparison="" if result.baseline else _no_comparison(result),
        partition=partition(result),
        silo_rows=silo_rows(rounds.silos, result.shown) if points else [],
        movement_rows=movement_rows(rounds.silos),
        movement=_movement(result, points),
        named=named_rows(rounds),
        failures=failures(rounds, result.test),
        more=_left_out(result, rounds),
        curves=curves,
        curve_step=plots.step(points, plots.MOST_POINTS),
        bar_step=plots.step(points, plots.MOST_BARS),
        costs=_costs(points) if points else [],
        cut=_cut_in_words(points),
        legend=_legend(result),
        movement_legend=_movement_legend(result),
        spread=len(result.silos) > MOST_LINES,
        resume=_resume(result),
        software=software_table(result.software),
        mixed_software=mixed_software(result.software),
        files=[name for name in FILES if name in beside.files],
        audit=beside.audit,
        privacy=spent_privacy(result, points),
        known_as=result.folder or result.run_id,
    )


def _left_out(result: RunResult, rounds: Overview) -> dict[str, int]:
    """Return how many rows each table leaves out."""
    alone = len(result.baseline.silo_alone) if result.baseline else 0
    rows = {
        "partition": len(result.partition),
        "silos": len(rounds.silos),
        "failures": len(rounds.failed),
        "named": len(rounds.named),
        "moved": sum(bool(seen.moved) for seen in rounds.silos.values()),
        "alone": alone,
    }
    return {table: max(count - MOST_ROWS, 0) for table, count in rows.items()}


def _curve_in_words(points: Sequence[Point], name: str) -> str:
    """Return what a curve shows, for someone who does not see it."""
    values = [(point.round, v) for point in points for v in known([point.aggregate], name)]
    first, begin = values[0]
    last, end = values[-1]
    return (
        f"{in_words(name)} of all silos' {EXAMPLES_OF_ROUNDS}: {written(begin)} after round"
        f" {first}, {written(end)} after round {last}."
    )


def _movement(result: RunResult, points: Sequence[Point]) -> tuple[str, str] | None:
    """Return the picture of who moved the model, with its words; None where nothing was measured."""
    most = [point.most_moved for point in points if point.most_moved is not None]
    if not most:
        return None
    words = (
        f"In the first round the silo that moved the model most made {most[0]:.0%} of the movement,"
        f" in the last one {most[-1]:.0%}."
    )
    return plots.movement(result, points), words


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


def _where_final(result: RunResult) -> str:
    """Return on which examples the final metrics were measured."""
    if result.test is None:
        return f"On the silos' {EXAMPLES}."
    where = f"On the silos' {EXAMPLES}, once, by the model of round {result.test.round}."
    return f"{where} {partial_sentence(result.test)}".rstrip()


def _no_comparison(result: RunResult) -> str:
    """Return how to get a comparison of a run that has none."""
    if result.mode == "simulate":
        return (
            "What the federation was worth beside each silo alone and all data pooled was not asked"
            " for: run.baseline=all trains those too, with the same budget of epochs."
        )
    return (
        "Each silo alone and all data pooled can be trained for comparison where one machine sees"
        " all data: in a simulation, with run.baseline=all."
    )


def _cut_in_words(points: Sequence[Point]) -> str:
    """Return what a bar holds that is cut, where the others would be flat beside it."""
    cut = plots.cut_bar(plots.second_bars(points)) if points else None
    if cut is None:
        return ""
    bar = cut[0]
    return (
        f"The bar that is broken off took {bar.total:.3g} seconds: {bar.below:.3g} of training, and"
        f" {bar.above:.3g} of everything else; the first round's hold the start of workers and of"
        " what they load."
    )


def _legend(result: RunResult) -> list[tuple[str, LineStyle]]:
    """Return the legend of the curves: a name and the style of its line."""
    items = [("all silos", AGGREGATE)]
    if len(result.silos) <= MOST_LINES:
        items += [(silo, line_style(place)) for place, silo in enumerate(result.silos)]
    else:
        items.append(("from the worst silo to the best", RANGE))
    if result.baseline is not None and result.baseline.centralised is not None:
        items.append(("all data pooled", POOLED))
    if result.baseline is not None and result.baseline.silo_alone:
        items.append(("best silo alone", BEST_ALONE))
    return items


def _movement_legend(result: RunResult) -> list[tuple[str, LineStyle]]:
    """Return the legend of who moved the model."""
    if len(result.silos) > MOST_LINES:
        silos = [("the silo that moved it most", line_style(0))]
    else:
        silos = [(silo, line_style(place)) for place, silo in enumerate(result.silos)]
    return [*silos, ("from here on one silo owns the model", BEST_ALONE)]


def _facts(result: RunResult, points: Sequence[Point]) -> list[tuple[str, str]]:
    """Return the few numbers that stand first: what it reached, then what it took."""
    facts = _final_facts(result)
    for name, count in (("round", len(points)), ("silo", len(result.silos))):
        facts.append((name if count == 1 else f"{name}s", f"{count:,}"))
    if result.partition:
        facts.append(("training examples", f"{sum(map(sum, result.partition.values())):,}"))
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
        facts.append((f"{in_words(name)}, {EXAMPLES}", score(result.final, name)))
    central: Known = {name: result.final.get(f"{CENTRAL}{name}") for name in result.shown}
    name = headline_of(result.shown, central)
    if name is not None:
        facts.append((f"{in_words(name)}, the task's test set", score(central, name)))
    return facts


def _resume(result: RunResult) -> str:
    """Return the words that resume a run that ended before its time."""
    ended = result.status in ("interrupted", "failed") and result.rounds
    return f"run.resume={result.run_id}" if ended else ""

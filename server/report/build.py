"""`report.html`: one self-contained page that says what a run was worth, for someone who did not make it.

Everything comes from `result.json`. Names and reasons in it are others' text: the template escapes them.
"""

from __future__ import annotations

import math
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from server.observers.progress import duration, size
from server.report import plots
from server.report.page import PAGE
from server.report.tables import comparison, failures, known_metric, partition, score, silo_rows
from server.run.files import write_atomic
from server.run.result import RunResult

STATUS = {"stopped_early": "stopped early, as configured", "running": "still running"}


def write_report(folder: Path) -> Path:
    """Write a run's report from its `result.json` and return its path."""
    path = folder / "report.html"
    write_atomic(path, html(RunResult.read(folder)))
    return path


def html(result: RunResult) -> str:
    """Return the page for a result, whatever of it is there."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return environment.from_string(PAGE.lstrip()).render(
        result=result,
        status=STATUS.get(result.status, result.status),
        headline=headline(result),
        verdict=verdict(result),
        facts=_facts(result),
        comparison=comparison(result),
        partition=partition(result),
        silo_rows=silo_rows(result) if result.rounds else [],
        failures=failures(result),
        curves=[
            (plots.learning_curve(result, name), _curve_in_words(result, name))
            for name in _learned(result)
        ],
        costs=_costs(result) if result.rounds else [],
        legend=_legend(result),
        spread=len(result.silos) > plots.MOST_LINES,
        resume=_resume(result),
    )


def headline(result: RunResult) -> str:
    """Return the run in one sentence."""
    done = f"{len(result.rounds)} round{'' if len(result.rounds) == 1 else 's'}"
    if result.status == "failed":
        return f"The run failed after {done}"
    baseline, final = result.baseline, _final_accuracy(result)
    if baseline is None or not _accuracy(baseline.federated.union):
        members = f"{len(result.silos)} silo{'' if len(result.silos) == 1 else 's'}"
        said = (
            f"The federated model is right on {final:.1%} of held-out examples"
            if final is not None
            else ""
        )
        if result.status == "interrupted":
            return f"The run was stopped after {done}" + (
                f"; {said[0].lower()}{said[1:]}" if said else ""
            )
        return said or f"{members} trained {done} together"
    parts = [
        f"The federated model is right on {baseline.federated.union['accuracy']:.1%} of held-out examples"
    ]
    alone = plots.known([scores.union for scores in baseline.silo_alone.values()], "accuracy")
    parts += [f"the best silo alone on {max(alone):.1%}"] if alone else []
    if baseline.centralised and _accuracy(baseline.centralised.union):
        parts.append(f"a model of all data pooled on {baseline.centralised.union['accuracy']:.1%}")
    return "; ".join(parts)


def verdict(result: RunResult) -> str:
    """Return what the comparison means, where there is one: the share of pooling's gain that federating kept."""
    baseline = result.baseline
    if baseline is None or baseline.centralised is None:
        return ""
    alone = plots.known([scores.union for scores in baseline.silo_alone.values()], "accuracy")
    both = _accuracy(baseline.federated.union) + _accuracy(baseline.centralised.union)
    if not alone or len(both) < 2:
        return ""
    federated, pooled, best = *both, max(alone)
    if federated <= best:
        return "Federating brought nothing here: a silo that trained alone did at least as well."
    if pooled <= best:
        return "Federating did better than any silo alone, and better than all data pooled."
    kept = (federated - best) / (pooled - best)
    if kept >= 1:
        return "Federating brought all that pooling the data would have, without moving them."
    return (
        f"Of what pooling all data would gain over the best silo alone, federating brought {math.floor(100 * kept)}%,"
        " without moving the data."
    )


def _accuracy(metrics: dict[str, float]) -> list[float]:
    return plots.known([metrics], "accuracy")


def _final_accuracy(result: RunResult) -> float | None:
    last = result.final or (result.rounds[-1].aggregate if result.rounds else {})
    found = _accuracy(last) or plots.known([last], "central_accuracy")
    return found[0] if found else None


def _learned(result: RunResult) -> list[str]:
    return [
        name
        for name in ("accuracy", "loss")
        if plots.known([r.aggregate for r in result.rounds], name)
    ]


def _curve_in_words(result: RunResult, name: str) -> str:
    """Return what a curve shows, for someone who does not see it."""
    points = [(r.round, v) for r in result.rounds for v in plots.known([r.aggregate], name)]
    (first, begin), (last, end) = points[0], points[-1]
    return f"Mean {name} over silos: {begin:.3f} after round {first}, {end:.3f} after round {last}."


def _costs(result: RunResult) -> list[tuple[str, str]]:
    """Return the two pictures of what the rounds cost, each with its words."""
    count = len(result.rounds)
    took = sum(record.seconds for record in result.rounds) / count
    trained = (
        sum(max(record.seconds_training.values(), default=0.0) for record in result.rounds) / count
    )
    down = sum(sum(record.bytes_down.values()) for record in result.rounds) // count
    up = sum(sum(record.bytes_up.values()) for record in result.rounds) // count
    return [
        (
            plots.seconds(result),
            f"A round took {took:.1f} seconds on average, of which the slowest silo {trained:.1f}.",
        ),
        (
            plots.traffic(result),
            f"On average {size(down)} went to the silos in a round, and {size(up)} came back.",
        ),
    ]


def _legend(result: RunResult) -> list[dict[str, str]]:
    """Return the legend of the curves: a name, and the colour and dashes of its sample line."""
    items = [{"name": "mean over silos", "colour": "var(--ink)", "dash": "", "width": "3"}]
    if len(result.silos) <= plots.MOST_LINES:
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


def _facts(result: RunResult) -> list[tuple[str, str]]:
    """Return the few numbers that stand first."""
    counts = (("round", len(result.rounds)), ("silo", len(result.silos)))
    facts = [(name + ("" if count == 1 else "s"), f"{count}") for name, count in counts]
    if result.rounds:
        facts.append(
            (
                "for all rounds",
                duration(result.seconds or sum(record.seconds for record in result.rounds)),
            )
        )
        moved = sum(sum(r.bytes_up.values()) + sum(r.bytes_down.values()) for r in result.rounds)
        facts.append(("travelled, both ways", size(moved)))
    if result.partition:
        facts.append(("training examples", f"{sum(map(sum, result.partition.values())):,}"))
    if "parameters" in result.model:
        facts.append(("parameters", f"{result.model['parameters']:,}"))
    name = known_metric(result.final, ("central_accuracy",))
    return [*facts, ("right on the test set", score(result.final, name))] if name else facts


def _resume(result: RunResult) -> str:
    """Return the words that go on with a run that ended before its time."""
    ended = result.status in ("interrupted", "failed") and result.rounds
    return f"run.resume={result.run_id}" if ended else ""

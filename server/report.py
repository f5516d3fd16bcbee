"""`report.html`: one self-contained page that says what a run was worth, for someone who did not make it.

Everything comes from `result.json`. Names and reasons in it are others' text: the template escapes them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from server import plots
from server.atomic import write_atomic
from server.progress import duration, size
from server.report_page import PAGE
from server.result import Metrics, RunResult, Scores

MOST_COLUMNS = 12
"""Silos in the matrix of models and silos; a page has no room for more."""
STATUS = {"stopped_early": "stopped early, as configured"}


def write_report(folder: Path) -> Path:
    """Write a run's report from its `result.json` and return its path."""
    path = folder / "report.html"
    write_atomic(path, html(RunResult.read(folder)))
    return path


def html(result: RunResult) -> str:
    """Return the page for a result."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    silos = list(result.baseline.federated.by_silo) if result.baseline else []
    return environment.from_string(PAGE.lstrip()).render(
        result=result,
        status=STATUS.get(result.status, result.status),
        headline=headline(result),
        facts=_facts(result),
        matrix_silos=silos[:MOST_COLUMNS],
        more_silos=len(silos) > MOST_COLUMNS,
        models=_models(result, silos[:MOST_COLUMNS]),
        failures=_failures(result),
        curves=plots.learning_curves(result),
        partition=plots.partition(result) if result.partition else "",
        costs=plots.costs(result),
    )


def headline(result: RunResult) -> str:
    """Return the run in one sentence."""
    if result.status == "failed":
        return f"The run failed after {len(result.rounds)} rounds"
    baseline = result.baseline
    if baseline is None or "accuracy" not in baseline.federated.union:
        accuracy = result.final.get("accuracy", result.final.get("central_accuracy"))
        if accuracy is None:
            return f"{len(result.silos)} silos trained {len(result.rounds)} rounds together"
        return f"The federated model is right on {accuracy:.1%} of held-out examples"
    parts = [f"The federated model is right on {baseline.federated.union['accuracy']:.1%} of held-out examples"]
    if baseline.silo_alone:
        best = max(scores.union["accuracy"] for scores in baseline.silo_alone.values())
        parts.append(f"the best silo alone on {best:.1%}")
    if baseline.centralised:
        parts.append(f"a model of all data pooled on {baseline.centralised.union['accuracy']:.1%}")
    return "; ".join(parts)


def _facts(result: RunResult) -> list[tuple[str, str]]:
    facts = [("time of all rounds", duration(result.seconds))]
    if result.rounds:
        up = sum(sum(record.bytes_up.values()) for record in result.rounds)
        facts.append(("sent by the silos", size(up)))
    if result.model:
        facts.append(("parameters", f"{result.model['parameters']:,}"))
    if result.partition:
        facts.append(("training examples", f"{sum(map(sum, result.partition.values())):,}"))
    return facts


def _models(result: RunResult, silos: list[str]) -> list[dict[str, Any]]:
    if result.baseline is None:
        return []
    rows = [_model("federated", result.baseline.federated, silos) | {"ours": True}]
    rows += [_model(f"{silo} alone", scores, silos) for silo, scores in result.baseline.silo_alone.items()]
    if result.baseline.centralised:
        rows.append(_model("all data pooled", result.baseline.centralised, silos))
    return rows


def _model(name: str, scores: Scores, silos: list[str]) -> dict[str, Any]:
    own = [_percent(scores.by_silo.get(silo, {})) for silo in silos]
    loss = f"{scores.union['loss']:.3f}" if "loss" in scores.union else "–"
    return {"name": name, "accuracy": _percent(scores.union), "loss": loss, "own": own, "ours": False}


def _percent(metrics: Metrics) -> str:
    return f"{metrics['accuracy']:.1%}" if "accuracy" in metrics else "–"


def _failures(result: RunResult) -> list[dict[str, str]]:
    """Return each silo's reasons once, with the rounds in which it failed for it."""
    rounds: dict[tuple[str, str], list[int]] = {}
    for record in result.rounds:
        for silo, reason in record.failed.items():
            rounds.setdefault((silo, reason), []).append(record.round)
    return [
        {"silo": silo, "reason": reason, "rounds": ", ".join(map(str, numbers))}
        for (silo, reason), numbers in sorted(rounds.items())
    ]

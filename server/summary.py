"""The end of a run on the terminal: what the federation was worth, where things lie, how to go on."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from server.result import Baseline, Metrics, RunResult, Scores


def summary(result: RunResult, console: Console) -> None:
    """Print the table federated | each silo alone | all data pooled, and what to do next."""
    if result.baseline is not None:
        console.print(comparison(result.baseline))
    elif result.final:
        values = "  ".join(f"{name} {value:.4f}" for name, value in sorted(result.final.items()))
        console.print(f"final: {values}", markup=False, soft_wrap=True)
    failed = sorted({silo for record in result.rounds for silo in record.failed})
    if failed:
        console.print(Text(f"failed in some round: {', '.join(failed)} (the report says why)", style="red"))
    ending = {"finished": "done", "stopped_early": "stopped early, as configured"}.get(result.status, result.status)
    console.print(f"{ending}: {result.folder or result.run_id}", markup=False, soft_wrap=True)
    if result.folder:
        console.print(f"report: {result.folder}/report.html", markup=False, soft_wrap=True)


def comparison(baseline: Baseline, most: int = 20) -> Table:
    """Return the models beside each other: on all silos' held-out examples, and on each silo's own."""
    silos = list(baseline.federated.by_silo)
    columns = silos if len(silos) <= 6 else []
    table = Table(title="accuracy on held-out examples", title_justify="left", title_style="bold")
    table.add_column("model")
    table.add_column("all silos", justify="right")
    table.add_column("loss", justify="right")
    for silo in columns:
        table.add_column(silo, justify="right")
    alone = list(baseline.silo_alone.items())
    rows = [("federated", baseline.federated, "bold green")]
    rows += [(f"{silo} alone", scores, "") for silo, scores in alone[:most]]
    if baseline.centralised:
        rows.append(("all data pooled", baseline.centralised, "dim"))
    for name, scores, style in rows:
        table.add_row(name, *_cells(scores, columns), style=style)
    if len(alone) > most:
        table.caption = f"{len(alone) - most} more silos in the report"
    return table


def _cells(scores: Scores, columns: list[str]) -> list[str]:
    own = [_number(scores.by_silo.get(silo, {}), "accuracy") for silo in columns]
    return [_number(scores.union, "accuracy"), _number(scores.union, "loss"), *own]


def _number(metrics: Metrics, name: str) -> str:
    return f"{metrics[name]:.4f}" if name in metrics else "–"

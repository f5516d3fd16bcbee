"""The end of a run on the terminal: what the federation was worth, where things lie, how to go on."""

from __future__ import annotations

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from server.run.privacy_spent import of_audit
from server.run.result import Baseline, RunResult
from server.run.shown import Shown, direction, in_order, partial_note, present, score

MOST_NAMES = 10
DIGITS = 4
"""Decimals of a metric on a terminal."""


def summary(result: RunResult, console: Console) -> None:
    """Print the table federated | each silo alone | all data pooled, and what to do next."""
    if result.baseline is not None:
        whole = comparison(result.baseline, result.shown)
        wide = console.options.update(max_width=10_000)
        fits = Measurement.get(console, wide, whole).maximum <= console.width
        console.print(whole if fits else comparison(result.baseline, result.shown, matrix=False))
    elif result.final:
        names = in_order(result.shown, result.final)
        values = "  ".join(f"{name} {score(result.final, name, DIGITS)}" for name in names)
        partial = partial_note(result.test.partial) if result.test is not None else ""
        note = f"  ({partial})" if partial else ""
        console.print(Text(f"test: {values}{note}"), soft_wrap=True)
    for sentence in of_audit(result.privacy):
        console.print(Text(sentence), soft_wrap=True)
    if result.test is not None and not result.test.aggregate:
        console.print(Text("no silo has examples to test the model on"), soft_wrap=True)
    if result.failed:
        failed = sorted(result.failed)
        more = f" and {len(failed) - MOST_NAMES} more" if len(failed) > MOST_NAMES else ""
        silos = ", ".join(failed[:MOST_NAMES]) + more
        console.print(
            Text(f"failed in some round: {silos} (the report says why)", style="red"),
            soft_wrap=True,
        )
    ending = {"finished": "done", "stopped_early": "stopped early, as configured"}.get(
        result.status, result.status
    )
    console.print(Text(f"{ending}: {result.folder or result.run_id}"), soft_wrap=True)
    if result.folder:
        console.print(Text(f"report: {result.folder}/report.html"), soft_wrap=True)
    if "digest" in result.model:
        console.print(Text(f"model: digest {result.model['digest'][:16]}"), soft_wrap=True)
    if result.status in ("failed", "interrupted") and result.rounds:
        console.print(Text(f"to resume: run.resume={result.run_id}"), soft_wrap=True)


def comparison(baseline: Baseline, shown: Shown, most: int = 20, *, matrix: bool = True) -> Table:
    """Return the models beside each other: on all silos' test examples, and in the matrix on
    each silo's own.
    """
    columns = list(baseline.federated.by_silo) if matrix else []
    names = present(shown, baseline.federated.union) or list(shown)
    metric = names[0]
    title = f"{metric} on test examples ({direction(shown, metric)})"
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("model")
    table.add_column("all silos", justify="right")
    for name in names[1:]:
        table.add_column(Text(name), justify="right")
    for silo in columns:
        table.add_column(Text(silo), justify="right")
    alone = list(baseline.silo_alone.items())
    rows = [("federated", baseline.federated, "bold green")]
    rows += [(f"{silo} alone", scores, "") for silo, scores in alone[:most]]
    if baseline.centralised:
        rows.append(("all data pooled", baseline.centralised, "dim"))
    for row, scores, style in rows:
        union = [score(scores.union, name, DIGITS) for name in names]
        own = [score(scores.by_silo.get(silo, {}), metric, DIGITS) for silo in columns]
        table.add_row(Text(row), *union, *own, style=style)
    if len(alone) > most:
        table.caption = f"{len(alone) - most} more silos in the report"
    return table

"""Verbs about runs of this machine: list, evaluate, report; and the versions of what Meadow stands
on.
"""

from __future__ import annotations

import json
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Final

from azureml_jobs.cli.arguments import Arguments
from azureml_jobs.cli.first_line import described, say
from azureml_jobs.cli.table import columns

if TYPE_CHECKING:
    from server.report.run_list import ListedRun

TITLES: Final = ("run", "task", "strategy", "status", "rounds", "final", "time", "started, UTC")
COLOURS: Final = {
    "finished": "green",
    "stopped_early": "green",
    "running": "cyan",
    "failed": "red",
    "damaged": "red",
    "interrupted": "yellow",
}
OUTPUT: Final = "run.output"


def runs(arguments: Arguments) -> int:
    """List the runs in run.output, the last one first."""
    from server.report.run_list import list_runs

    output = Path(output_of(arguments))
    # Before the first run there is no folder, which is no mistake; one that was named is there.
    listed = list_runs(output) if arguments.rest or output.exists() else []
    if arguments.has("--json"):
        print(json.dumps([run.to_json() for run in listed], indent=1))
    elif not listed:
        print(f"There are no runs in {output}/. The first one: meadow simulate")
    elif sys.stdout.isatty():
        _print_coloured(listed)
    else:
        print("\n".join(columns([TITLES, *map(_cells, listed)])))
    return 0


def output_of(arguments: Arguments) -> str:
    """Return the folder that run.output names among the overrides, `outputs` where it names none."""
    output = "outputs"
    for override in arguments.rest:
        key, _, value = override.partition("=")
        if key != OUTPUT or not value:
            raise arguments.wrong(f"'{override}' is not an argument of it", f"{OUTPUT}=FOLDER")
        output = value
    return output


def _print_coloured(listed: list[ListedRun]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in TITLES:
        # Of a narrow terminal, everything but the run's name is cut.
        table.add_column(
            title, no_wrap=title != "run", overflow="ellipsis" if title != "run" else "fold"
        )
    for run in listed:
        cells = [Text(cell) for cell in _cells(run)]
        cells[TITLES.index("status")].stylize(COLOURS.get(run.status, ""))
        table.add_row(*cells)
    Console().print(table)


def _cells(run: ListedRun) -> tuple[str, ...]:
    from server.run.units import duration

    status = run.status.replace("_", " ")
    if run.problem:
        status = f"{status}: {run.problem}"
    if run.quiet is not None:
        status = f"{status}, silent for {duration(run.quiet)}"
    started = run.started.replace("T", " ").partition("+")[0][:16]
    took = duration(run.seconds) if run.rounds else ""
    rounds = str(run.rounds) if run.task else ""
    cells = (run.id, run.task, run.strategy, status, rounds, run.score, took, started)
    return tuple(on_a_line(cell) for cell in cells)


def on_a_line(text: str) -> str:
    """Return a file's words without what a terminal would obey."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def evaluate(arguments: Arguments) -> int:
    """Score a finished run's model on the data of its own configuration."""
    from conf.resume import folder_of, stored

    # Before torch is imported: a run that is not there, or has no model, is told at once.
    folder = folder_of(arguments.get("run"))
    from server.run.start_checks import MODEL, check_weights

    check_weights(folder / MODEL, str(folder))
    conf = stored(folder)
    say(f"{folder.name}: {described(conf)}")
    if conf.strategy.keeps:
        say(
            f"The silos keep {', '.join(conf.strategy.keeps)}: what is scored here is the model with"
            " their first weights, and not what the silos use."
        )
    from conf.overrides import parse
    from server.run.shown import LOSS_ALONE, in_order, score
    from server.scoring.evaluation import evaluate_run

    places = {o.key_or_group: str(o.value()) for o in parse(list(arguments.rest))}
    scores = evaluate_run(arguments.get("run"), places)
    rows = []
    for name, metrics in {"all silos": scores.union, **scores.by_silo}.items():
        names = in_order(LOSS_ALONE, metrics)
        shown = [f"{metric} {score(metrics, metric, 4)}" for metric in names]
        rows.append((name, "  ".join(shown)))
    print("\n".join(columns(rows)))
    for line in _decided(folder):
        print(line)
    return 0


def _decided(folder: Path) -> list[str]:
    """Return how the run's model decides, as its own test found it; nothing where it ranks nothing."""
    from conf.errors import CheckpointError
    from server.report.decisions import decision_rows, where_of
    from server.run.result import RunResult

    try:
        test = RunResult.read(folder).test
    except CheckpointError:
        return []
    if test is None:
        return []
    return [
        f"says {on_a_line(row.name)} from probability {row.probability} on ({row.rule}): sensitivity"
        f" {row.sensitivity}, specificity {row.specificity}, precision {row.precision} on"
        f" {where_of(test)} of the run"
        for row in decision_rows(test)
    ]


def report(arguments: Arguments) -> int:
    """Write a run's report.html anew from what lies in its folder, or verify its ledger."""
    from conf.resume import folder_of

    folder = folder_of(arguments.get("run"))
    if not arguments.has("--verify"):
        from azureml_jobs.cli.verify import outside_of
        from server.report.build import write_report

        print(write_report(folder, outside=outside_of(arguments, folder)))
        return 0
    from azureml_jobs.cli.verify import of_folder

    return of_folder(arguments, folder)


def version(arguments: Arguments) -> int:
    """Print the versions of Meadow and of what it stands on, without importing them.

    The last line is the digest of the code that must agree, as a silo's owner lists it in
    `policy.code`.
    """
    from conf.code_digest import release_digest
    from conf.meadow_version import release

    print(f"meadow {release() or '(not installed)'}")
    for name in ("flwr", "torch", "hydra-core"):
        try:
            print(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            print(f"{name} (not installed)")
    print(f"code {release_digest()}")
    return 0

"""Verbs about a finished run of this machine: evaluate, report; and the versions of what Meadow
stands on.
"""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

from azureml_jobs.cli.arguments import Arguments
from azureml_jobs.cli.table import columns
from conf.errors import CheckpointError


def evaluate(arguments: Arguments) -> int:
    """Score a finished run's model on the data of its own configuration."""
    from server.scoring.evaluation import evaluate_run

    scores = evaluate_run(arguments.get("run"))
    rows = []
    for name, metrics in {"all silos": scores.union, **scores.by_silo}.items():
        shown = [f"{metric} {value:.4f}" for metric, value in metrics.items()]
        rows.append((name, "  ".join(shown)))
    print("\n".join(columns(rows)))
    return 0


def report(arguments: Arguments) -> int:
    """Write a run's report.html anew from what lies in its folder, or verify its ledger."""
    from conf.resume import folder_of

    folder = folder_of(arguments.get("run"))
    if not arguments.has("--verify"):
        from server.report.build import write_report

        print(write_report(folder))
        return 0
    from server.run.audit import audit

    anchors = [Path(file) for file in arguments.get("anchors").split(",") if file]
    verdict = audit(folder, anchors)
    print(verdict)
    return CheckpointError.exit_status if verdict.faults else 0


def version(arguments: Arguments) -> int:
    """Print the versions of Meadow and of what it stands on, without importing them.

    The last line is the digest of the code that must agree, as a silo's owner lists it in
    `policy.code`.
    """
    from conf.code_digest import release_digest

    for name in ("meadow", "flwr", "torch", "hydra-core"):
        try:
            print(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            print(f"{name} (not installed)")
    print(f"code {release_digest()}")
    return 0

"""The verbs of the command line, one function each; what a verb needs is imported when it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from azureml_jobs.cli import local_verbs as federation
from conf.errors import CheckpointError, ConfigError


@dataclass(frozen=True)
class Verb:
    """A verb: one line that says what it does, and the function that takes its arguments and gives the status."""

    summary: str
    run: Callable[[list[str]], int]


def simulate(args: list[str]) -> int:
    """Train one model over several silos on this machine, as a Hydra application."""
    from azureml_jobs.cli.hydra_app import application

    progress = "--no-progress" not in args
    args = [arg for arg in args if arg != "--no-progress"]

    def train(conf: Any, command: str) -> None:
        from server.simulation import simulate_conf

        simulate_conf(conf, command=command, progress=progress)

    return application("simulate", args, train)


def evaluate(args: list[str]) -> int:
    """Score a finished run's model on the data of its own configuration."""
    given = _arguments(
        "evaluate", args, "Score a finished run's model on the data of its own configuration."
    )
    if given is None:
        return 0
    from server.scoring.evaluation import evaluate_run

    scores = evaluate_run(given["run"])
    rows = {"all silos": scores.union, **scores.by_silo}
    width = max(map(len, rows))
    for name, metrics in rows.items():
        print(
            f"{name:{width}}  "
            + "  ".join(f"{metric} {value:.4f}" for metric, value in metrics.items())
        )
    return 0


def report(args: list[str]) -> int:
    """Write a run's report.html anew from what lies in its folder, or verify its ledger."""
    what = (
        "Write a run's report.html anew from what lies in its folder.\n"
        "With --verify, compare its ledger with what others remember of it instead: result.json, and files that\n"
        "silos kept, anchors=FILE,FILE (anchors.jsonl in a node's state folder). The status is 6 if it is broken."
    )
    verify = "--verify" in args
    known = ("run", "anchors") if verify else ("run",)
    given = _arguments("report", [arg for arg in args if arg != "--verify"], what, known)
    if given is None:
        return 0
    from conf.resume import folder_of

    folder = folder_of(given["run"])
    if not verify:
        from server.report.build import write_report

        print(write_report(folder))
        return 0
    from server.run.audit import audit

    verdict = audit(folder, [Path(file) for file in given.get("anchors", "").split(",") if file])
    print(verdict)
    return CheckpointError.exit_status if verdict.faults else 0


def version(args: list[str]) -> int:
    """Print the versions of Meadow and of what it stands on, without importing them.

    The last line is the digest of the code that must agree, as a silo's owner lists it in `policy.code`.
    """
    from conf.code_digest import release_digest

    for name in ("meadow", "flwr", "torch", "hydra-core"):
        try:
            print(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            print(f"{name} (not installed)")
    print(f"code {release_digest()}")
    return 0


def check(args: list[str]) -> int:
    """Look at all that would fail in a launch on Azure ML."""
    from azureml_jobs.cli import azure_verbs

    return azure_verbs.check(args)


def download(args: list[str]) -> int:
    """Bring a run's files from Azure ML."""
    from azureml_jobs.cli import azure_verbs

    return azure_verbs.run("download", args)


def rehearse(args: list[str]) -> int:
    """Live through a federation's whole life on Azure ML, without Azure."""
    from azureml_jobs.rehearsal import require

    require()
    from azureml_jobs.rehearsal.rehearse import main
    from server.orchestrator.backends import store_of
    from server.store.run_queue import RunQueue

    return main(args, store_of, RunQueue)


def either(verb: str, local: Callable[[list[str]], int]) -> Callable[[list[str]], int]:
    """Return a verb of federations on this machine that with `backend=azure` is one of those on Azure ML."""

    def run(args: list[str]) -> int:
        if "backend=azure" not in args:
            return local(args)
        from azureml_jobs.cli import azure_verbs

        return azure_verbs.run(verb, args)

    return run


VERBS = {
    "simulate": Verb("train one model over several silos on this machine", simulate),
    "launch": Verb(
        "start a federation, or a part of it: all|server|client backend=local|azure",
        either("launch", federation.launch),
    ),
    "submit": Verb(
        "give another run to a federation's orchestrator", either("submit", federation.submit)
    ),
    "status": Verb("show a federation's jobs and runs", either("status", federation.status)),
    "logs": Verb("show what its jobs said: [-f] [silo=NAME]", either("logs", federation.logs)),
    "wait": Verb("wait for the end of a run: run=RUN_ID", either("wait", federation.wait)),
    "stop": Verb(
        "end its jobs, or cancel a run: [silo=NAME | run=RUN_ID]", either("stop", federation.stop)
    ),
    "download": Verb("bring a run's files from Azure ML: run=RUN_ID", download),
    "check": Verb("look at all that would fail in a launch on Azure ML", check),
    "rehearse": Verb("live through a federation on Azure ML, without Azure", rehearse),
    "keys": Verb("its CA, node keys and list of who may connect", federation.keys),
    "evaluate": Verb("score a finished run's model: run=RUN_ID", evaluate),
    "report": Verb("write a run's report anew, or --verify its ledger: run=RUN_ID", report),
    "serve": Verb("be a federation's orchestrator: the command of its job", federation.serve),
    "join": Verb("be a silo's node: the command of its job", federation.join),
    "version": Verb("print versions, and the digest of the code that must agree", version),
}
"""Every verb, in the order of the help."""


def _arguments(
    verb: str, args: list[str], what: str, known: tuple[str, ...] = ("run",)
) -> dict[str, str] | None:
    """Return the arguments of a verb that takes `run=RUN_ID` alone, or None when help was asked for and given."""
    if "--help" in args or "-h" in args:
        print(
            f"meadow {verb} run=RUN_ID\n\n{what}\nRUN_ID is the name of a folder in outputs/, or the path of one."
        )
        return None
    given = {}
    for arg in args:
        key, _, value = arg.partition("=")
        if key not in known or not value:
            raise ConfigError(
                "MDW-111", f"meadow {verb}: '{arg}' is no argument of it.", "Write run=RUN_ID."
            )
        given[key] = value
    if "run" not in given:
        raise ConfigError(
            "MDW-111",
            f"meadow {verb}: which run?",
            "Write run=RUN_ID; the ids are the names in outputs/.",
        )
    return given

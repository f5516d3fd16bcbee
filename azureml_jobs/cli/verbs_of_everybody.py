"""The rows of the table of verbs for everybody, and the commands that jobs are started with."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from azureml_jobs.cli.arguments import Argument, Verb
from azureml_jobs.cli.statuses import ENDS
from azureml_jobs.cli.verb_parts import (
    ALL,
    AS,
    DRY_RUN,
    EVERY_KEY,
    FINISHED_RUN,
    JOBS,
    ON,
    ONE_SILO,
    OPEN,
    OUTSIDE,
    RUN,
    RUN_TO_FORGET,
    SHELL,
    WHAT_IS_LEFT,
    WHERE,
    WHICH,
)

EVERYBODY: Final = (
    Verb(
        "forget",
        ALL,
        "delete what an ended run has left, on your side; what proves it stays",
        "forget:forget",
        (
            RUN_TO_FORGET,
            Argument(
                "what",
                "checkpoints, logs, errors; at silos updates, states (all); or job_logs",
                "KIND",
            ),
            ONE_SILO,
            Argument("state", "a silo's state folder, where no federation's file is", "FOLDER"),
            Argument(
                "state_store", "where that silo's state is, if elsewhere", "PLACE", needs="state"
            ),
            ON,
            AS,
        ),
        overrides=(*WHICH, "run.output"),
        about="Deletes checkpoints, logs and the text of the error at the orchestrator; the last update and the\n"
        "algorithm's states at silos. Ledger, history, result, configuration and model stay, and a line of the\n"
        "ledger says what was deleted. A run whose checkpoints are gone can't be resumed.",
        examples=(
            ("meadow forget run=first", "on every side that is yours"),
            ("meadow forget what=job_logs", "all that the jobs on this machine have said"),
            ("meadow forget run=first state=state silo=north", "a silo's owner"),
        ),
    ),
    Verb(
        "verify",
        ALL,
        "say whether a run is what its ledger says, and who confirms it",
        "verify:verify",
        (
            replace(FINISHED_RUN, required=False),
            *OUTSIDE,
            Argument("weights", "a model's file, with records= alone: is it the run's?", "FILE"),
        ),
        about="Compares model, configuration, metrics and history with the ledger, and the ledger with what is\n"
        "known outside the run's folder. Without any of that it says so: confirmed by nothing but the folder.\n"
        "A silo looks at what its node kept, without a run's folder: records= alone.",
        examples=(
            ("meadow verify first", "beside its federation: CA and keys are found"),
            ("meadow verify runs/first ca=ca.pem", "an auditor"),
            ("meadow verify records=ledger-record.jsonl ca=ca.pem", "a silo"),
        ),
        overrides=WHICH,
        statuses=(("6", "it does not hold, or nothing that you gave confirms it"),),
    ),
    Verb(
        "launch all",
        ALL,
        "start a whole federation, do one run, end it",
        "launch:launch_all",
        (WHERE, Argument("--detach", "return when all jobs have started"), OPEN, DRY_RUN),
        overrides=EVERY_KEY,
        hydra=True,
        about=f"{WHAT_IS_LEFT}\n"
        "An orchestrator of this machine that is killed while its run is followed is started again.",
        statuses=ENDS,
        examples=(
            ("meadow launch all backend=local task=digits", "one run, its result, the end"),
            ("meadow launch all backend=local --detach", "then submit, status, logs, wait, stop"),
            (
                "meadow launch all backend=local run.resume=RUN",
                "resume a run that was cancelled or failed",
            ),
        ),
    ),
    Verb(
        "logs",
        ALL,
        "show what a federation's jobs said",
        "watch:logs",
        (Argument("-f", "go on until all jobs have ended", alias="--follow"), ONE_SILO, ON, AS),
        overrides=WHICH,
        about="Each line stands behind its part: orchestrator or a silo's name.",
    ),
    Verb(
        "download",
        ALL,
        "bring a run's files into run.output",
        "runs:download",
        (RUN, ON, AS),
        overrides=(*WHICH, "run.output"),
        about="Those of a federation on this machine are copied only where run.output is another folder.",
    ),
    Verb(
        "rehearse",
        ALL,
        "live through a federation on Azure ML, without Azure",
        "programs:rehearse",
        (Argument("--keep", "leave the cloud's folder, jobs' logs included"),),
        overrides=EVERY_KEY,
        about="Workspaces, vaults and storage of three silos are a stand-in on 127.0.0.1, which really starts\n"
        "the jobs; Azure's own clients talk to it, led by environment variables alone. Any other host is\n"
        "refused. Needs Node, for Azurite.",
    ),
    Verb(
        "version",
        ALL,
        "print versions, and the digest of the code that must agree",
        "finished_runs:version",
    ),
    Verb(
        "completion",
        ALL,
        "print a shell's script that completes verbs, keys, values and runs",
        "completion:completion",
        (SHELL,),
        examples=(
            ('eval "$(meadow completion bash)"', "in ~/.bashrc"),
            ('eval "$(meadow completion zsh)"', "in ~/.zshrc, after compinit"),
            ("meadow completion fish | source", "in ~/.config/fish/config.fish"),
        ),
    ),
    # ---- the commands of jobs
    Verb(
        "serve",
        JOBS,
        "be a federation's orchestrator",
        "programs:serve",
        overrides=EVERY_KEY,
        hydra=True,
        about="federation.orchestrator.host is the name or address that silos dial: its certificate is made for it.\n"
        "Results land in run.output.",
        statuses=(
            ("0", "no run for federation.orchestrator.idle_timeout seconds"),
            ("143", "SIGTERM"),
        ),
    ),
    Verb(
        "join",
        JOBS,
        "be a silo's node",
        "programs:join",
        (
            Argument("--silo", "the silo's settings as JSON", "JSON"),
            Argument("--silo-file", "a file of them, which no process list shows", "FILE"),
            Argument("--server", "where the orchestrator is", "HOST:PORT"),
            Argument("--relay", "a relay at which the orchestrator is met", "URL"),
            Argument(
                "--rendezvous",
                "where it says where it is: a folder, or a blob container's address",
                "PLACE",
            ),
            Argument("--tracking", "an MLflow address where it says so", "ADDRESS"),
            Argument("--experiment", "the experiment there (meadow)", "NAME", needs="--tracking"),
            Argument("--federation", "this silo's federation: no other is followed", "NAME"),
            Argument(
                "--run-id",
                "the orchestrator's MLflow run; without it the federation's live one",
                "ID",
                needs="--tracking",
            ),
            Argument("--ca", "PEM of the only CA that is trusted", "FILE", required=True),
            Argument(
                "--admission", "what meadow keys admit wrote, for --server or --relay", "FILE"
            ),
            Argument("--key", "this silo's private key", "FILE"),
            Argument(
                "--key-vault", "the Key Vault that holds it, read by this job's identity", "VAULT"
            ),
            Argument("--data", "where the silo's data is in this job: its data.root", "FOLDER"),
            Argument("--app", "the Flower app (client.app:app)", "MODULE:NAME"),
            Argument("--state", "folder for the last update, and the silo's state", "FOLDER"),
            Argument(
                "--state-store",
                "another place for its state: a folder, or a blob container's address",
                "PLACE",
            ),
            Argument("--idle-timeout", "end after so long without work (7200)", "SECONDS"),
            Argument("--foreign-runs", "join a stock Flower server"),
        ),
        one_of=(
            ("--silo", "--silo-file"),
            ("--server", "--relay", "--rendezvous", "--tracking"),
            ("--key", "--key-vault"),
        ),
        statuses=(
            ("0", "the federation is over"),
            ("20", "no work for --idle-timeout seconds"),
            ("143", "SIGTERM"),
        ),
    ),
    Verb(
        "relay",
        JOBS,
        "be a place where silos and orchestrators meet, both dialling out",
        "programs:relay",
        (Argument("file", "the relay's own file (docs/relay.md)", "FILE", required=True),),
        about="It carries the federation's own TLS and can't read it. It holds no secret of a federation and keeps\n"
        "nothing: ended and started again, both sides dial again and go on.",
        statuses=(("0", "SIGTERM"),),
    ),
)
"""In the order of the help: for everybody, then what jobs run."""

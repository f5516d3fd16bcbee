"""The table of verbs: who they are for, what they take, what they do.

A verb is one row here and one function.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from azureml_jobs.cli.arguments import HELP_FLAGS, Argument, Verb
from azureml_jobs.cli.statuses import ENDS, TIME_IS_OVER
from conf.errors import ConfigError

SCIENTIST: Final = "Data scientist"
ORCHESTRATOR: Final = "Orchestrator's owner"
SILO: Final = "Silo's owner"
ALL: Final = "Everybody"
JOBS: Final = "Commands of jobs"

EVERY_KEY: Final = ("",)
WHICH: Final = ("federation.",)
"""Overrides that say which federation is meant."""

RUN: Final = Argument("run", "the id of a run; meadow status lists them", "RUN", required=True)
PLACES: Final = ("task.target", "model.target", "strategy.target")
RUN_TO_FORGET: Final = Argument(
    "run", "the id of a run that has ended", "RUN", required=True, bare=True
)
FINISHED_RUN: Final = Argument(
    "run", "a folder's name in outputs/, or the path of one", "RUN_ID", required=True, bare=True
)
AS: Final = Argument("as", "as whom you act: orchestrator, silo:NAME or all (all)", "ROLE")
BACKENDS: Final = ("local", "azure")
WHERE: Final = Argument(
    "backend",
    "local: processes of this machine; azure: jobs of Azure ML",
    "local|azure",
    required=True,
    choices=BACKENDS,
    code="MDW-192",
)
ON: Final = Argument(
    "backend",
    "local or azure; left out, azure where the federation's file names a workspace, else local",
    "local|azure",
    choices=BACKENDS,
    code="MDW-192",
)
SILO_NAME: Final = Argument("silo", "the silo", "NAME", required=True)
ONE_SILO: Final = Argument("silo", "one silo alone", "NAME")
OPEN: Final = Argument("--open", "open the jobs in Azure ML's Studio", backend="azure")
DRY_RUN: Final = Argument(
    "--dry-run", "write the jobs' YAML below .meadow/, send nothing", backend="azure"
)
VAULT: Final = Argument("key_vault", "private parts are in this Key Vault", "VAULT")
KEY_FOLDER: Final = Argument("keys", "private parts are in this folder", "FOLDER")
STORE: Final = Argument("store", "the orchestrator's store is in this folder", "FOLDER")
NAME: Final = Argument("NAME", "the silo's name", required=True)
PUBLIC_KEY: Final = Argument("FILE", "the .pub file that its owner made")
SHELL: Final = Argument(
    "SHELL", "bash, zsh or fish", required=True, choices=("bash", "zsh", "fish")
)
DAYS: Final = Argument("days", "for how many days the key may connect (365)", "DAYS")
EXAMPLES: Final = Argument(
    "examples_at_most", "how many examples one of its updates may count", "N"
)

MODULE: Final = Argument("NAME", "of the module: small letters, digits and '_'", required=True)

OUTSIDE: Final = (
    Argument("ca", "the federation's CA, to have the signatures in the ledger count", "FILE"),
    Argument("keys", "public keys that came from the silos themselves: NAME.pub", "FOLDER"),
    Argument(
        "records",
        "files that silos kept: ledger-record.jsonl in a node's state folder",
        "FILE,FILE",
    ),
)
"""What `meadow verify` may be given that does not come from the run's folder."""

NEW: Final = """The files are written into this folder, and run as they are: change what works. No file is written over.
docs/your-own-task.md goes through a task of one's own, step by step."""
WHAT_IS_LEFT: Final = """What runs already is left as it is. Groups and keys are those of meadow simulate --help.
Jobs, keys and the store of a federation on this machine are in .meadow/<federation.name>/, results in outputs/."""
WHERE_KEYS_ARE: Final = """Without key_vault= or keys=, everything is where the federation's file says, or in
.meadow/<federation.name>/ (docs/keys.md)."""

_ROWS: Final = (
    # ---- data scientist
    Verb(
        "simulate",
        SCIENTIST,
        "train one model over several silos on this machine",
        "programs:simulate",
        (Argument("--no-progress", "plain lines instead of the live display"),),
        overrides=EVERY_KEY,
        hydra=True,
        own_help=True,
    ),
    Verb(
        "submit",
        SCIENTIST,
        "give a run to a federation's orchestrator",
        "runs:submit",
        (ON, AS),
        overrides=EVERY_KEY,
        hydra=True,
        about="Runs are done one after another. Running silos keep their own settings (data, device, threads): a run\n"
        "that asks for others is refused.",
        examples=(
            (
                "meadow submit task=digits run.rounds=20 run.name=second",
                "then: meadow wait run=second",
            ),
        ),
    ),
    Verb(
        "status",
        SCIENTIST,
        "show a federation's jobs and runs",
        "watch:status",
        (ON, AS),
        overrides=WHICH,
        about="What is not yours to see costs its own row, and no error.",
    ),
    Verb(
        "wait",
        SCIENTIST,
        "wait for the end of a run",
        "runs:wait",
        (RUN, Argument("timeout", "stop waiting after so many seconds", "SECONDS"), ON, AS),
        overrides=WHICH,
        statuses=(*ENDS, TIME_IS_OVER),
    ),
    Verb(
        "runs",
        SCIENTIST,
        "list the runs of this machine, the last one first",
        "finished_runs:runs",
        (Argument("--json", "as JSON, with every digit"),),
        overrides=("run.output",),
        about="A run in each line: what it trained, how it ended, its headline metric at the end. One that was killed\n"
        "is still called running; the line says for how long it has written nothing.",
    ),
    Verb(
        "compare",
        SCIENTIST,
        "put runs side by side: what they reached, cost and were set to",
        "compared_runs:compare",
        (
            Argument(
                "RUN",
                "a folder's name in outputs/, the path of one, or a folder of runs such as a sweep's",
                required=True,
                many=True,
            ),
            Argument("page", "where the page goes (outputs/compare-....html)", "FILE"),
            Argument("--json", "print JSON, with every digit"),
        ),
        overrides=("run.output",),
        about="Prints a table and writes a page with the runs' curves. Runs of different tasks, or whose silos\n"
        "test on other examples, are put side by side with a note that says so.",
        examples=(
            ("meadow compare first second", ""),
            ("meadow compare outputs/sweep-2026-01-02_03-04-05", "all runs of a sweep"),
        ),
    ),
    Verb(
        "evaluate",
        SCIENTIST,
        "score a finished run's model, silo by silo",
        "finished_runs:evaluate",
        (FINISHED_RUN,),
        overrides=PLACES,
        about="Code from outside the tree is found where the run says, or where task.target= does.",
    ),
    Verb(
        "report",
        SCIENTIST,
        "write a run's report anew, or verify its ledger",
        "finished_runs:report",
        (
            FINISHED_RUN,
            Argument("--verify", "do what meadow verify does instead"),
            *(replace(argument, needs="--verify") for argument in OUTSIDE),
        ),
        statuses=(("6", "the ledger does not hold (with --verify)"),),
    ),
    Verb(
        "new task",
        SCIENTIST,
        "write the file of a task of your own, its test and example data",
        "new:new_task",
        (MODULE,),
        about=NEW,
        examples=(("meadow new task wine", "wine.py, test_wine.py, wine.csv"),),
    ),
    Verb(
        "new model",
        SCIENTIST,
        "write the file of a model of your own, and its test",
        "new:new_model",
        (MODULE,),
        about=NEW,
        examples=(("meadow new model wide", "wide.py, test_wide.py"),),
    ),
    Verb(
        "new strategy",
        SCIENTIST,
        "write the file of a strategy of your own, both halves, and its test",
        "new:new_strategy",
        (MODULE,),
        about=NEW,
        examples=(("meadow new strategy gentle", "gentle.py, test_gentle.py"),),
    ),
    Verb(
        "check",
        SCIENTIST,
        "look at all that would fail in a launch or a run, before it",
        "watch:check",
        (ON, AS),
        overrides=EVERY_KEY,
        about="One line for each thing that is looked at, and below it what to do. You are shown your role's part.\n"
        "Where only what is trained is named (task, data, model, trainer, strategy), a dry round of it is done here:\n"
        "a small batch through the task, the model's state there and back, one aggregation.",
        examples=(
            ("meadow check federation.file=hospitals.yaml", "a federation, before it is launched"),
            ("meadow check task.target=wine.py:Wine data.root=wine.csv", "a task of your own"),
        ),
        statuses=(("9", "a launch would fail"), ("3", "a run would fail at its first batch")),
    ),
    # ---- the orchestrator's owner
    Verb(
        "launch server",
        ORCHESTRATOR,
        "start the orchestrator's job",
        "launch:launch_server",
        (WHERE, OPEN, DRY_RUN),
        overrides=EVERY_KEY,
        hydra=True,
        about=WHAT_IS_LEFT,
        examples=(("meadow launch server backend=local", "runs come by meadow submit"),),
    ),
    Verb(
        "stop",
        ORCHESTRATOR,
        "end a federation's jobs, or cancel a run",
        "watch:stop",
        (ONE_SILO, Argument("run", "cancel this run, and leave the jobs running", "RUN"), ON, AS),
        overrides=WHICH,
        about="Silos end first, then the orchestrator. A run in progress is resumed when its federation is launched\n"
        "again.",
    ),
    Verb(
        "keys init",
        ORCHESTRATOR,
        "make the CA, or hand out its certificate again",
        "keys:keys",
        (VAULT, KEY_FOLDER),
        overrides=WHICH,
        about=WHERE_KEYS_ARE,
    ),
    Verb(
        "keys admit",
        ORCHESTRATOR,
        "let a silo's key connect",
        "keys:keys",
        (NAME, PUBLIC_KEY, DAYS, EXAMPLES, VAULT, KEY_FOLDER, STORE),
        overrides=WHICH,
        about=WHERE_KEYS_ARE,
        examples=(("meadow keys admit north north.pub days=90", "compare its SHA256 first"),),
    ),
    Verb(
        "keys rotate",
        ORCHESTRATOR,
        "let a silo's new key connect and revoke its older ones",
        "keys:keys",
        (NAME, PUBLIC_KEY, DAYS, EXAMPLES, VAULT, KEY_FOLDER, STORE),
        overrides=WHICH,
        about="Without FILE the new key is made here.",
    ),
    Verb(
        "keys revoke",
        ORCHESTRATOR,
        "end a silo's keys; a running federation follows in seconds",
        "keys:keys",
        (NAME, Argument("key", "this key alone", "SHA256:..."), STORE),
        overrides=WHICH,
    ),
    Verb(
        "keys list",
        ORCHESTRATOR,
        "show who may connect, since when, until when",
        "keys:keys",
        (VAULT, KEY_FOLDER, STORE),
        overrides=WHICH,
        about=WHERE_KEYS_ARE,
    ),
    # ---- a silo's owner
    Verb(
        "launch client",
        SILO,
        "start one silo's job",
        "launch:launch_client",
        (
            SILO_NAME,
            WHERE,
            Argument("silo.file", "settings of the owner's own, for this job alone", "FILE"),
            OPEN,
            DRY_RUN,
        ),
        overrides=EVERY_KEY,
        hydra=True,
        about=WHAT_IS_LEFT,
        examples=(("meadow launch client silo=silo-1 backend=local", ""),),
    ),
    Verb(
        "policy draft",
        SILO,
        "write the policy that allows a run as it is, and nothing else",
        "policy_draft:draft_policy",
        (FINISHED_RUN, Argument("file", "where it goes (policy-RUN_ID.yaml)", "FILE")),
        about="A silo's owner reads it, turns values into ranges where more may be allowed, and gives it to their\n"
        "silo (silo.file=). No file is written over. The run's folder needs no more in it than config.yaml.",
        examples=(
            ("meadow policy draft run=first", ""),
            ("meadow launch client silo=north backend=local silo.file=policy-first.yaml", "then"),
        ),
    ),
    Verb(
        "keys silo",
        SILO,
        "make a silo's node key, or hand out its public half again",
        "keys:keys",
        (
            NAME,
            Argument("--new", "make another in the place of the present one"),
            VAULT,
            KEY_FOLDER,
        ),
        overrides=WHICH,
        about=WHERE_KEYS_ARE,
    ),
    # ---- everybody
    Verb(
        "forget",
        ALL,
        "delete what an ended run has left, on your side; what proves it stays",
        "forget:forget",
        (
            RUN_TO_FORGET,
            Argument(
                "what", "checkpoints, logs, errors; at silos updates, states (all)", "KIND,KIND"
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
        statuses=(("6", "the ledger does not hold"),),
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
            Argument("--rendezvous", "a folder in which it says where it is", "FOLDER"),
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
                "--admission", "what meadow keys admit wrote, where --server is given", "FILE"
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
            Argument("--idle-timeout", "end after so long without work (1800)", "SECONDS"),
            Argument("--foreign-runs", "join a stock Flower server"),
        ),
        one_of=(
            ("--silo", "--silo-file"),
            ("--server", "--rendezvous", "--tracking"),
            ("--key", "--key-vault"),
        ),
        statuses=(
            ("0", "the federation is over"),
            ("20", "no work for --idle-timeout seconds"),
            ("143", "SIGTERM"),
        ),
    ),
)

VERBS: Final = {verb.name: verb for verb in _ROWS}
"""Every verb, in the order of the help."""
KEYS: Final = frozenset(
    argument.name
    for verb in _ROWS
    for argument in verb.arguments
    if not argument.is_flag and not argument.is_word
)
"""Every `key=` that some verb takes, so that one that belongs to another verb is told apart from a
key of the run.
"""


def find(args: Sequence[str]) -> tuple[Verb | str, list[str]]:
    """Return the verb that the arguments begin with, and the others; the first word alone where it
    asks for help.

    Raises ConfigError: MDW-110 for a word that begins no verb, MDW-111 for a second one that does
    not go with it.
    """
    first = args[0]
    rest = list(args[1:])
    if first in VERBS:
        return VERBS[first], rest
    seconds = [name.partition(" ")[2] for name in VERBS if name.startswith(f"{first} ")]
    if not seconds:
        raise ConfigError("MDW-110", f"There is no verb '{first}'.", _nearest(first, _firsts()))
    word = next((arg for arg in rest if not arg.startswith("-") and "=" not in arg), None)
    if word in seconds:
        rest.remove(word)
        return VERBS[f"{first} {word}"], rest
    if not rest or any(flag in rest for flag in HELP_FLAGS):
        return first, rest
    what = f"meadow {first}: '{word or rest[0]}' does not go with it."
    raise ConfigError("MDW-111", what, _nearest(word or "", seconds))


def _firsts() -> set[str]:
    return {name.partition(" ")[0] for name in VERBS}


def _nearest(word: str, names: Sequence[str] | set[str]) -> str:
    from conf.schema_keys import nearest

    return nearest(word, names)

"""What several rows of the table of verbs share: for whom they are, arguments, paragraphs of help."""

from __future__ import annotations

from typing import Final

from azureml_jobs.cli.arguments import Argument

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
    "run", "the id of a run that has ended; not for job_logs", "RUN", bare=True
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
RENEWABLE: Final = Argument(
    "renewable", "for how many days in all the orchestrator may renew it while in use", "DAYS"
)
EXAMPLES: Final = Argument(
    "examples_at_most", "how many examples one of its updates may count", "N"
)
BY_NOTE: Final = Argument(
    "examples_by_note", "how far a note of its owner may raise that; else only lower it", "N"
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

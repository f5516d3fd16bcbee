"""The rows of the table of verbs for who owns an orchestrator or a silo."""

from __future__ import annotations

from typing import Final

from azureml_jobs.cli.arguments import Argument, Verb
from azureml_jobs.cli.verb_parts import (
    AS,
    DAYS,
    DRY_RUN,
    EVERY_KEY,
    EXAMPLES,
    FINISHED_RUN,
    KEY_FOLDER,
    NAME,
    ON,
    ONE_SILO,
    OPEN,
    ORCHESTRATOR,
    PUBLIC_KEY,
    SILO,
    SILO_NAME,
    STORE,
    VAULT,
    WHAT_IS_LEFT,
    WHERE,
    WHERE_KEYS_ARE,
    WHICH,
)

OWNERS: Final = (
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
        "keys rotate-ca",
        ORCHESTRATOR,
        "put another CA in the place of this one, while the federation runs",
        "keys:keys",
        (
            Argument("--finish", "trust the CA before this one no more"),
            Argument("--lost", "the CA's key is gone: silos are handed the new certificate"),
            Argument("--stolen", "trust the CA no more, from now on; admit every silo anew"),
            VAULT,
            KEY_FOLDER,
            STORE,
        ),
        overrides=WHICH,
        about="Both CAs are trusted until --finish. Silos follow by the older CA's own signature.",
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
        "data contract",
        SILO,
        "draft the contract of a table from its files, for their owner to read",
        "data_contract:draft_contract",
        (
            Argument("label", "the column that is predicted", "COLUMN", required=True),
            Argument("file", "where it goes (contract.yaml)", "FILE"),
        ),
        overrides=("data.",),
        about="The files under data.root stay here, and so does what is drafted: its owner reads each line, corrects\n"
        "it and shares it, or does not. No file is written over (docs/tables.md).",
        examples=(
            ("meadow data contract data.root=patients/ label=outcome file=task/outcome.yaml", ""),
        ),
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
)
"""In the order of the help: the orchestrator's owner, then a silo's."""

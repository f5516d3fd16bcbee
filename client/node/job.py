"""The silo's job: the program that finds the server, connects, and runs the ClientApp for days.

    meadow join --silo-file silo.json --server host:9092 --ca ca.pem --key hospital-a.key

It ends with status 0 when the federation is over, `IDLE_STATUS` when there was no work for `--idle-timeout`, 143 on
SIGTERM, and the status of its error otherwise.

    MDW-333 no such app     MDW-756 a file or folder that can't be used
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

from flwr.clientapp import ClientApp

from azureml_jobs.identity.authority import load_ca, span_of
from azureml_jobs.identity.key_vault import VaultSecrets
from azureml_jobs.identity.node_key import NodeKey, load_node_key, read_node_key
from azureml_jobs.identity.secret_store import read_private
from azureml_jobs.rendezvous import (
    OVER,
    FolderRendezvous,
    MlflowRendezvous,
    Rendezvous,
    StaticRendezvous,
)
from client.malloc import keep_activations_mapped
from client.node.connection import Connection, FederationOver
from client.node.journal import UpdateJournal
from client.node.node import IDLE_SECONDS, IdleTimeout, Node
from conf.errors import IdentityError, MeadowError, SiloError
from conf.silos import silo_from_json
from conf.startup_log import note

IDLE_STATUS: Final = 20
TERMINATED_STATUS: Final = 143


class Terminated(BaseException):
    """The platform asked the process to end; not an Exception, so that no app takes it for its own."""


def load_app(path: str) -> ClientApp:
    """Return the ClientApp at `module:attribute`; raises SiloError MDW-333 where there is none."""
    module, _, attribute = path.partition(":")
    try:
        app = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise SiloError(
            "MDW-333", f"There is no app at {path!r}: {error}.", "Write it as package.module:app."
        ) from None
    if not isinstance(app, ClientApp):
        raise SiloError(
            "MDW-333",
            f"{path!r} is a {type(app).__name__}, no ClientApp.",
            "Name a flwr ClientApp.",
        )
    return app


def address_at(place: Rendezvous) -> str | None:
    """Return where the server is now, None where nobody knows; raises FederationOver where the place says so."""
    record = place.find()
    if record is not None and record.state == OVER:
        raise FederationOver("the rendezvous says so")
    return record.address if record is not None else None


def work(make: Callable[[], Node]) -> int:
    """Run a node to its end and return the process's exit status; one line on stderr says why."""
    signal.signal(signal.SIGTERM, _terminate)
    # The chunks of an update are freed and needed again each round, too.
    keep_activations_mapped()
    try:
        make().run()
    except FederationOver:
        print("the federation is over", file=sys.stderr)
        return 0
    except IdleTimeout as reason:
        print(f"ended: {reason}", file=sys.stderr)
        return IDLE_STATUS
    except Terminated:
        print("ended by SIGTERM; what was not finished has been handed back", file=sys.stderr)
        return TERMINATED_STATUS
    except MeadowError as error:
        print(error, file=sys.stderr)
        return error.exit_status


def _terminate(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise Terminated


def parser() -> argparse.ArgumentParser:
    """Return the reader of the program's arguments."""
    made = argparse.ArgumentParser(prog="meadow join", description="A silo's node.")
    who = made.add_mutually_exclusive_group(required=True)
    who.add_argument("--silo", help="the silo's settings as JSON (conf.silos.silo_to_json)")
    who.add_argument("--silo-file", type=Path, help="a file of them, which no process list shows")
    place = made.add_mutually_exclusive_group(required=True)
    place.add_argument("--server", type=StaticRendezvous, help="host:port of the orchestrator")
    place.add_argument(
        "--rendezvous", type=FolderRendezvous, help="folder where the orchestrator says where it is"
    )
    place.add_argument(
        "--tracking",
        help="MLflow address where it says so, in its --experiment for its --federation",
    )
    made.add_argument("--experiment", default="meadow")
    made.add_argument("--federation", default="federation")
    made.add_argument("--ca", required=True, type=Path, help="PEM of the only CA that is trusted")
    secret = made.add_mutually_exclusive_group(required=True)
    secret.add_argument("--key", type=Path, help="this silo's private key")
    secret.add_argument(
        "--key-vault",
        type=VaultSecrets,
        help="the Key Vault that holds it, read by this job's identity",
    )
    made.add_argument("--data", help="where the silo's data is in this job: its data.root")
    made.add_argument("--app", default="client.app:app")
    made.add_argument("--state", type=Path, help="folder for the last update and the state")
    made.add_argument("--idle-timeout", type=float, default=IDLE_SECONDS)
    made.add_argument("--foreign-runs", action="store_true", help="join a stock Flower server")
    made.add_argument(
        "--run-id", help="the orchestrator's MLflow run; without it the federation's live one"
    )
    return made


def make_node(arguments: Sequence[str] | None = None) -> Node:
    """Return the node that a command line describes; raises MeadowError."""
    args = parser().parse_args(arguments)
    app = load_app(args.app)
    note("import")
    try:
        silo = silo_from_json(args.silo_file.read_text() if args.silo_file else args.silo)
        authority = args.ca.read_bytes()
        journal = UpdateJournal(args.state) if args.state else None
    except OSError as error:
        what = f"{error.filename or 'a file'} can't be used: {error.strerror}."
        raise IdentityError("MDW-756", what, "Look at --silo-file, --ca and --state.") from None
    certificate = load_ca(authority, str(args.ca), datetime.now(UTC))
    hint = "Ask the orchestrator's owner for the next one."
    if args.data:
        silo = dataclasses.replace(silo, data=dataclasses.replace(silo.data, root=args.data))
    server = args.server or args.rendezvous or _tracked(args)
    connection = Connection(lambda: address_at(server), authority, _node_key(args, silo.name))
    return Node(
        connection,
        app,
        silo,
        journal=journal,
        idle_timeout=args.idle_timeout,
        foreign_runs=args.foreign_runs,
        spans=[span_of(f"The CA in {args.ca}", certificate, hint)],
        place=server,
    )


def _node_key(args: argparse.Namespace, silo: str) -> NodeKey:
    if args.key is not None:
        return load_node_key(read_private(args.key), str(args.key))
    return read_node_key(args.key_vault, silo)


def _tracked(args: argparse.Namespace) -> Rendezvous:
    """Return the rendezvous in MLflow, asked as this job's identity: its run's token is for its own workspace alone."""
    for name in (
        "MLFLOW_TRACKING_TOKEN",
        "MLFLOW_RUN_ID",
        "MLFLOW_EXPERIMENT_ID",
        "MLFLOW_EXPERIMENT_NAME",
    ):
        os.environ.pop(name, None)
    for name in ("azure", "azureml"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return MlflowRendezvous(args.tracking, args.experiment, args.federation, args.run_id)


def main(arguments: Sequence[str] | None = None) -> int:
    """Be the node that a command line describes until it ends, and return the process's exit status."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    flower = logging.getLogger("flwr")
    flower.setLevel(logging.WARNING)
    for handler in list(flower.handlers):
        flower.removeHandler(handler)
    return work(lambda: make_node(arguments))

"""The silo job: find the server, connect, and run the ClientApp in this process, for days.

    meadow join --silo-file silo.json --server host:9092 --ca ca.pem --key hospital-a.key

It runs the code that its own job was sent with, never code it received, and refuses a run of other code. Model, data
and device stay warm between rounds. It ends with status 0 when the federation is over, `IDLE_STATUS` when there was
no work for `idle_timeout`, 143 on SIGTERM, and the status of its error otherwise.

    MDW-331 a run of other code     MDW-333 no such app     MDW-756 a file or folder that can't be used
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.app.message import make_message, remove_content_from_message
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from flwr.proto.message_pb2 import ObjectTree

from azureml_jobs.identity.authority import load_ca, span_of
from azureml_jobs.identity.expiry import Reminder, Span
from azureml_jobs.identity.key_vault import VaultSecrets
from azureml_jobs.identity.node_key import NodeKey, load_node_key, node_secret
from azureml_jobs.identity.secret_store import read_private
from azureml_jobs.rendezvous import (
    OVER,
    FolderRendezvous,
    MlflowRendezvous,
    Rendezvous,
    StaticRendezvous,
    no_server_found,
)
from client.malloc import give_back, keep_activations_mapped
from client.node.connection import Connection, FederationOver, Forgotten, Refused
from client.node.journal import LARGEST, Kept, Question
from client.silo_settings import NODE_KEY
from conf.code_digest import app_hash
from conf.errors import IdentityError, MeadowError, SiloError, WireError
from conf.schema import Silo
from conf.silos import silo_from_json, silo_to_json
from conf.startup_log import note
from strategies.wire import protocol
from strategies.wire.objects import deflate, inflate
from strategies.wire.packing import packing_mod

log = logging.getLogger(__name__)

LARGE: Final = 64 * 2**20
"""Bytes of an update from which on memory counts more than the page faults of giving it back."""
IDLE_SECONDS: Final = 1800.0
"""Without a message for this long the job ends: an idle GPU costs its owner money."""
IDLE_STATUS: Final = 20
TERMINATED_STATUS: Final = 143


class IdleTimeout(Exception):
    """There was no work for too long."""


class Terminated(BaseException):
    """The platform asked the process to end; not an Exception, so that no app takes it for its own."""


class Node:
    """Answers one server's instructions with one ClientApp, one at a time."""

    def __init__(
        self,
        connection: Connection,
        app: ClientApp,
        silo: Silo,
        *,
        kept: Kept | None = None,
        idle_timeout: float = IDLE_SECONDS,
        foreign_runs: bool = False,
        spans: Sequence[Span] = (),
        place: Rendezvous | None = None,
    ) -> None:
        """With `foreign_runs` it also takes part in runs of a server that names no code (stock Flower's).

        Of the end of `spans` it warns in its log; `place`, where the connection looks, is for the error of finding
        nobody there.
        """
        self._spans, self._reminder = spans, Reminder(log)
        self._connection, self._app, self._silo, self._kept = connection, app, silo, kept
        self._idle_timeout, self._foreign_runs, self._place = idle_timeout, foreign_runs, place
        self._node_id = 0
        self._context: Context | None = None
        self._why_refused: str | None = None  # of the context's run
        self._stateful: str | None = None  # Meadow's id of the run whose state the context holds

    def run(self) -> NoReturn:
        """Work until the federation is over (FederationOver), idle (IdleTimeout), or refuses this silo."""
        last_work = time.monotonic()
        try:
            self._node_id = self._connection.open(last_work + self._idle_timeout)
            log.info("%s is connected, node %d", self._silo.name, self._node_id)
            note("connected")
            while True:
                try:
                    worked = self._step()
                except Refused as refusal:
                    log.warning("dropped a message: %s", refusal)
                    worked = True
                except Forgotten as reason:
                    log.info("connecting anew: %s", reason)
                    self._node_id, self._context = self._connection.open(), None
                    worked = False
                if worked:
                    last_work = time.monotonic()
                elif time.monotonic() - last_work > self._idle_timeout:
                    raise IdleTimeout(f"no work for {self._idle_timeout:.0f} s")
        except TimeoutError:
            if self._place is not None:
                log.error("%s", no_server_found(self._place, self._idle_timeout, time.time()))
            raise IdleTimeout(f"no server for {self._idle_timeout:.0f} s") from None
        finally:
            self._connection.close()

    def _step(self) -> bool:
        """Answer the next instruction; return False when there was none."""
        received = self._connection.receive()
        self._remind()
        if received is None:
            return False
        head, tree = received
        context = self._context_of(head)
        started = time.monotonic()
        question = None
        if self._why_refused is not None:
            self._connection.confirm(head)
            reply = Message(Error(ErrorCode.INVALID_FAB, self._why_refused), reply_to=head)
        else:
            reply, question = self._answer(head, tree, context)
        if reply.has_content() and protocol.size(reply.content) >= LARGE:
            give_back()  # the message is free, but its holes do not fit the answer's chunks
        head, tree, contents = _as_it_travels(reply)
        del reply  # an update would be twice in memory while it is sent
        self._send(head, tree, contents, question, time.monotonic() - started)
        return True

    def _remind(self) -> None:
        """Say in the log, once a day, that the CA or this silo's key will end."""
        self._reminder.look(self._spans)
        if (ends := self._connection.key_ends) is not None:
            hint = f"Make another (meadow keys silo {self._silo.name} --new), have it admitted, start this job again."
            self._reminder.say(
                "key", f"This silo's key may connect until {ends:%Y-%m-%d %H:%M} UTC. {hint}"
            )

    def _answer(
        self, head: Message, tree: ObjectTree, context: Context
    ) -> tuple[Message, Question | None]:
        """Return the reply, and the question where the reply is new and worth keeping."""
        try:
            content = inflate(tree.object_id, self._connection.pull(head, tree), LARGEST)
        except WireError as error:
            return Message(Error(ErrorCode.UNKNOWN, str(error)), reply_to=head), None
        if isinstance(content, Error):
            return Message(
                Error(ErrorCode.UNKNOWN, "an instruction without content"), reply_to=head
            ), None
        message = make_message(metadata=head.metadata, content=content)
        question = _question(message, tree) if self._kept is not None else None
        if self._kept is not None and question is not None:
            self._restore(context, question.run)
            self._remember(question, message)
            known = self._kept.update(question)
            if known is not None:
                log.info(
                    "round %d was trained before, answering with the kept update", question.round
                )
                return Message(known, reply_to=head), None
        return _call(self._app, message, context), question

    def _remember(self, question: Question, message: Message) -> None:
        """Keep the anchor that came with a round: that of the ledger after the round before."""
        anchor = protocol.records(message.content, ConfigRecord)[protocol.CONFIG].get(
            protocol.LEDGER
        )
        if self._kept is not None and isinstance(anchor, str) and anchor:
            try:
                self._kept.keep_anchor(question.run, question.round - 1, anchor)
            except OSError as error:
                log.warning("the ledger's anchor could not be kept: %s", error)

    def _send(
        self,
        head: Message,
        tree: ObjectTree,
        contents: dict[str, bytes],
        question: Question | None,
        seconds: float,
    ) -> None:
        if (
            question is not None
            and tree.children
            and self._kept is not None
            and self._context is not None
        ):
            try:
                self._kept.keep_state(question.run, self._context.state)
                content = {id: one for id, one in contents.items() if id != tree.object_id}
                self._kept.keep_update(question, tree.children[0].object_id, content)
            except OSError as error:
                log.warning(
                    "the update could not be kept, a crash now would cost a training: %s", error
                )
        self._connection.answer(head, tree, contents, seconds)

    def _context_of(self, head: Message) -> Context:
        """Return the run's context, made at its first message, when the run's code is compared with this tree's."""
        run_id = head.metadata.run_id
        if self._context is None or self._context.run_id != run_id:
            run, code = self._connection.run(run_id)
            self._why_refused = self._refusal(code)
            if self._why_refused:
                log.error("refusing run %d: %s", run_id, self._why_refused)
            self._context = Context(
                run_id=run_id,
                node_id=self._node_id,
                node_config={NODE_KEY: silo_to_json(self._silo)},
                state=RecordDict(),
                run_config=dict(run.override_config),
                series_id=run.series_id,
            )
            self._stateful = None
        return self._context

    def _refusal(self, theirs: str | None) -> str | None:
        if theirs == app_hash() or (theirs is None and self._foreign_runs):
            return None
        return (
            f"MDW-331: {self._silo.name} runs the code {app_hash()[:12]}, the run is of {str(theirs)[:12]}."
            " Submit both jobs from the same commit."
        )

    def _restore(self, context: Context, run: str) -> None:
        if self._kept is not None and self._stateful != run:
            context.state = self._kept.state(run)
            self._stateful = run


def _call(app: ClientApp, message: Message, context: Context) -> Message:
    """Return the app's reply, or what it raised as an error that names it."""
    try:
        return packing_mod(message, context, app)
    except Exception as error:  # an app may raise anything, and the federation must hear of it
        return _failure(error, message)


def _as_it_travels(reply: Message) -> tuple[Message, ObjectTree, dict[str, bytes]]:
    """Return a reply's head, tree and objects; what can't travel is a failure of the app's and not of the node."""
    try:
        id, tree, contents = deflate(reply)
    except Exception as error:  # whatever the app has put into its records
        reply = _failure(error, reply)
        id, tree, contents = deflate(reply)
    reply.metadata.__dict__["_message_id"] = id
    return remove_content_from_message(reply), tree, contents


def _failure(error: Exception, message: Message) -> Message:
    """Return what an app raised as an error that names it, in answer to a message or in a reply's place."""
    if isinstance(error, MeadowError):
        log.error("%s", error)
        reason = str(error)
    else:
        log.error("the app raised", exc_info=error)
        reason = f"{type(error).__name__}: {str(error)[:500]}"
    told = Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason)
    if message.metadata.reply_to_message_id:
        return make_message(metadata=message.metadata, error=told)
    return Message(told, reply_to=message)


def _question(message: Message, tree: ObjectTree) -> Question | None:
    """Return which round of which run a message trains; None for any other message."""
    config = protocol.records(message.content, ConfigRecord).get(protocol.CONFIG)
    if config is None or not message.metadata.message_type.startswith("train") or not tree.children:
        return None
    run, round = config.get(protocol.RUN_ID), config.get(protocol.ROUND)
    if not isinstance(run, str) or not isinstance(round, int):
        return None
    return Question(run, round, tree.children[0].object_id)


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
    keep_activations_mapped()  # the chunks of an update are freed and needed again each round, too
    try:
        make().run()
    except FederationOver:
        print("the federation is over", file=sys.stderr)
        return 0
    except IdleTimeout as reason:
        print(f"ended: {reason}", file=sys.stderr)
        return IDLE_STATUS
    except Terminated:
        print("ended by SIGTERM; what was in work has been handed back", file=sys.stderr)
        return TERMINATED_STATUS
    except MeadowError as error:
        print(error, file=sys.stderr)
        return error.exit_status


def _terminate(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise Terminated


def make_node(arguments: Sequence[str] | None = None) -> Node:
    """Return the node that a command line describes; raises MeadowError."""
    parser = argparse.ArgumentParser(prog="meadow join", description="A silo's node.")
    who = parser.add_mutually_exclusive_group(required=True)
    who.add_argument("--silo", help="the silo's settings as JSON (conf.silos.silo_to_json)")
    who.add_argument("--silo-file", type=Path, help="a file of them, which no process list shows")
    place = parser.add_mutually_exclusive_group(required=True)
    place.add_argument("--server", type=StaticRendezvous, help="host:port of the orchestrator")
    place.add_argument(
        "--rendezvous", type=FolderRendezvous, help="folder where the orchestrator says where it is"
    )
    place.add_argument(
        "--tracking",
        help="MLflow address where it says so, in its --experiment for its --federation",
    )
    parser.add_argument("--experiment", default="meadow")
    parser.add_argument("--federation", default="federation")
    parser.add_argument("--ca", required=True, type=Path, help="PEM of the only CA that is trusted")
    secret = parser.add_mutually_exclusive_group(required=True)
    secret.add_argument("--key", type=Path, help="this silo's private key")
    secret.add_argument(
        "--key-vault",
        type=VaultSecrets,
        help="the Key Vault that holds it, read by this job's identity",
    )
    parser.add_argument("--data", help="where the silo's data is in this job: its data.root")
    parser.add_argument("--app", default="client.app:app")
    parser.add_argument("--state", type=Path, help="folder for the last update and the state")
    parser.add_argument("--idle-timeout", type=float, default=IDLE_SECONDS)
    parser.add_argument("--foreign-runs", action="store_true", help="join a stock Flower server")
    parser.add_argument(
        "--run-id", help="the orchestrator's MLflow run; without it the federation's live one"
    )
    args = parser.parse_args(arguments)
    app = load_app(args.app)
    note("import")
    try:
        silo = silo_from_json(args.silo_file.read_text() if args.silo_file else args.silo)
        authority, kept = args.ca.read_bytes(), Kept(args.state) if args.state else None
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
        kept=kept,
        idle_timeout=args.idle_timeout,
        foreign_runs=args.foreign_runs,
        spans=[span_of(f"The CA in {args.ca}", certificate, hint)],
        place=server,
    )


def _node_key(args: argparse.Namespace, silo: str) -> NodeKey:
    if args.key is not None:
        return load_node_key(read_private(args.key), str(args.key))
    name = node_secret(silo)
    return load_node_key(args.key_vault.get(name), args.key_vault.where(name))


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

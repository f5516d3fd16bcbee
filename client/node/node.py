"""A silo's node: it answers one server's instructions with one ClientApp, in this process, one at a
time.

It runs the code that its own job was sent with, never code it received, and refuses a run of other
code. Model, data and device stay in memory between rounds.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Final, NoReturn

from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.app.message import make_message, remove_content_from_message
from flwr.clientapp.typing import ClientAppCallable
from flwr.common.constant import ErrorCode
from flwr.proto.message_pb2 import ObjectTree

from azureml_jobs.identity.expiry import Reminder, Span
from azureml_jobs.storage.base import LeaseLost
from client.border_mod import OWN_NODE
from client.context_state import holds
from client.device_failures import DeviceLost
from client.malloc import give_back
from client.node.agreement import refusal
from client.node.answer_budget import AnswerBudget, is_refused
from client.node.connection import CallRefused, Connection, NodeUnknown
from client.node.journal import LARGEST, InstructionKey, UpdateJournal
from client.node.server_finder import ServerFinder
from client.node.silo_forgetting import Lifetimes
from client.node.state_store import AnotherProcess, SiloStateStore
from client.node.witness import Witness
from client.silo_settings import DATA_KEY, NODE_KEY
from client.wanted import NotWanted, until
from conf.border import CrossedError, across
from conf.errors import MeadowError, SiloError, WireError
from conf.running_clock import Clock
from conf.schema import Silo, SiloConf
from conf.silos import silo_to_json
from conf.startup_log import note
from strategies.wire import protocol
from strategies.wire.frames import Content
from strategies.wire.objects import check_tree, cut, inflate, tree_size
from strategies.wire.packing import packing_mod

log = logging.getLogger(__name__)

MOST_OBJECTS: Final = 100_000
"""Of an instruction: 16 GiB in chunks are 3,300, and each array of a model is one."""
LARGE: Final = 64 * 2**20
"""Bytes of an update from which on memory counts more than the page faults of giving it back."""
IDLE_SECONDS: Final = SiloConf.idle_timeout
"""Without a message for this long the job ends: an idle GPU costs its owner money."""


class IdleTimeout(Exception):
    """There was no work for too long."""


class Node:
    """Answers one server's instructions with one ClientApp, one at a time."""

    def __init__(
        self,
        connection: Connection,
        app: ClientAppCallable,
        silo: Silo,
        *,
        journal: UpdateJournal | None = None,
        states: SiloStateStore | None = None,
        witness: Witness | None = None,
        lifetimes: Lifetimes | None = None,
        idle_timeout: float = IDLE_SECONDS,
        foreign_runs: bool = False,
        spans: Sequence[Span] = (),
        finder: ServerFinder | None = None,
        at_end: Callable[[], None] | None = None,
        budget: AnswerBudget | None = None,
        data_key: bytes = b"",
    ) -> None:
        """Without `states` the silo's state lasts as long as this process.

        With `foreign_runs` it also takes part in runs of a server that names no code (stock
        Flower's).

        With a `witness` it signs what the server says of its ledger; with `lifetimes` it deletes
        what has outlived its own, while it waits for work.

        Of the end of `spans` it warns in its log; `finder`, which the connection asks, is for the
        error of finding nobody. `at_end` is called when the node has ended.
        `budget` counts the silo's answers. With `data_key` the app makes a fingerprint of its data.
        """
        self._at_end = at_end
        self._budget = budget
        self._data_key = data_key
        self._spans = spans
        self._reminder = Reminder(log)
        self._connection = connection
        self._app = app
        self._silo = silo
        self._journal = journal
        self._states = states
        self._witness = witness
        self._lifetimes = lifetimes
        self._idle_timeout = idle_timeout
        self._foreign_runs = foreign_runs
        self._finder = finder
        self._node_id = 0
        self._context: Context | None = None
        self._why_refused: MeadowError | None = None  # of the context's run
        self._restored: str | None = None  # Meadow's id of the run whose state the context holds
        self._not_restored: MeadowError | None = None  # why that state could not be read
        self._lost: DeviceLost | None = None  # what the app's device was lost to
        self._needs_state: str | None = None  # the run whose algorithm is known to have a state

    def run(self) -> NoReturn:
        """Work until the federation is over (FederationOver), idle (IdleTimeout), or refuses this
        silo, or until the device is lost to this process (DeviceLost).
        """
        # A silo whose machine was suspended was not idle meanwhile.
        clock = self._connection.clock
        try:
            with clock.watched():
                self._node_id = self._connection.open(clock() + self._idle_timeout)
                log.info("%s is connected, node %d", self._silo.name, self._node_id)
                note("connected")
                self._work(clock)
        except TimeoutError:
            if self._finder is not None:
                log.error("%s", self._finder.not_found(self._idle_timeout))
            raise IdleTimeout(f"no server for {self._idle_timeout:.0f} s") from None
        finally:
            # One that starts again is back in seconds: what is asked of it meanwhile is not lost.
            self._connection.close(goodbye=self._lost is None)
            if self._states is not None:
                self._states.close()
            if self._at_end is not None:
                self._at_end()

    def _step_or_connect(self) -> bool:
        """Answer the next instruction, or connect anew; return False where there was none."""
        try:
            return self._step()
        except CallRefused as refusal:
            log.warning("dropped a message: %s", refusal)
            return True
        except NodeUnknown as reason:
            log.info("connecting anew: %s", reason)
            self._node_id = self._connection.open()
            self._context = None
            return False

    def _work(self, clock: Clock) -> NoReturn:
        """Work until there was none for too long; raises IdleTimeout."""
        last_work = clock()
        while True:
            worked = self._step_or_connect()
            if self._lifetimes is not None and not worked:
                self._lifetimes.look()
            if worked:
                last_work = clock()
            elif clock() - last_work > self._idle_timeout:
                raise IdleTimeout(f"no work for {self._idle_timeout:.0f} s")

    def _step(self) -> bool:
        """Answer the next instruction; return False when there was none."""
        received = self._connection.receive()
        self._remind()
        if received is None:
            return False
        head, tree = received
        context = self._context_of(head)
        started = time.monotonic()
        key = None
        if self._why_refused is not None:
            self._connection.confirm(head)
            reply = Message(Error(ErrorCode.INVALID_FAB, across(self._why_refused)), reply_to=head)
        else:
            reply, key = self._answer(head, tree, context)
        if reply.has_content() and protocol.size(reply.content) >= LARGE:
            # The message is free, but its holes do not fit the answer's chunks.
            give_back()
        head, tree, contents = _as_it_travels(reply)
        # Or else an update would be twice in memory while it is sent.
        del reply
        self._send(head, tree, contents, key, time.monotonic() - started)
        if self._lost is not None:
            # The server has the answer. Every later one of this process would be the same failure.
            raise self._lost
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
    ) -> tuple[Message, InstructionKey | None]:
        """Return the reply, and the instruction's key where the reply is new and worth keeping."""
        known = self._kept_update(head, tree)
        if known is not None:
            # The model of this instruction is not fetched for an answer that is here.
            self._connection.confirm(head)
            return Message(known, reply_to=head), None
        try:
            tree_size(tree, MOST_OBJECTS)
            contents = self._connection.pull(head, tree)
            check_tree(tree, contents)
            content = inflate(tree.object_id, contents, LARGEST)
        except (WireError, SiloError) as error:
            log.warning("an instruction can't be read: %s", error)
            return Message(Error(ErrorCode.UNKNOWN, across(error)), reply_to=head), None
        if isinstance(content, Error):
            return Message(
                Error(ErrorCode.UNKNOWN, "an instruction without content"), reply_to=head
            ), None
        message = make_message(metadata=head.metadata, content=content)
        key = _key_of(message, tree)
        if message.metadata.message_type == protocol.CLOSING and self._witness is not None:
            return self._witness.farewell(message), None
        self._restore(context, message)
        if self._witness is not None and key is not None:
            self._witness.hear(message)
        with self._connection.working_on(_content_of(tree)) as closed, until(closed):
            reply = self._within_budget(message, tree, context)
        reply = self._with_state_kept(reply, message, key, context)
        if self._witness is not None and key is not None:
            # Before it goes into the journal: an update that is sent again is sent with its receipt.
            reply = self._witness.answer(message, reply)
        return reply, key

    def _within_budget(self, message: Message, tree: ObjectTree, context: Context) -> Message:
        """Return the app's reply, or the refusal of a silo that has given all of its answers.

        A run that its owner does not allow costs none: the app refuses it before it looks at data.
        Raises AnotherProcess or LeaseLost.
        """
        if self._budget is not None and not is_refused(message, self._silo):
            try:
                self._budget.charge(message, _content_of(tree))
            except (AnotherProcess, LeaseLost):
                raise
            except MeadowError as error:
                return _failure(error, message)
        reply, self._lost = _call(self._app, message, context)
        return reply

    def _kept_update(self, head: Message, tree: ObjectTree) -> RecordDict | None:
        """Return the kept answer to an instruction of which only the tree is here.

        The id of its content says which it is: the digest of everything in it, run and round
        included.
        """
        trains = head.metadata.message_type.startswith("train")
        if self._journal is None or not trains or not tree.children:
            return None
        known = self._journal.update(tree.children[0].object_id)
        if known is not None:
            log.info("this was trained before, answering with the kept update")
        return known

    def _send(
        self,
        head: Message,
        tree: ObjectTree,
        contents: dict[str, Content],
        key: InstructionKey | None,
        seconds: float,
    ) -> None:
        if key is not None and tree.children and self._journal is not None:
            try:
                content = {id: one for id, one in contents.items() if id != tree.object_id}
                self._journal.keep_update(key, tree.children[0].object_id, content)
            except OSError as error:
                log.warning(
                    "the update could not be kept, a crash now would cost a training: %s", error
                )
        self._connection.answer(head, tree, contents, seconds)

    def _context_of(self, head: Message) -> Context:
        """Return the run's context, made at its first message, when the run's code is compared with
        this tree's.
        """
        run_id = head.metadata.run_id
        if self._context is None or self._context.run_id != run_id:
            run, headers = self._connection.run(run_id)
            self._why_refused = refusal(headers, self._silo, foreign_runs=self._foreign_runs)
            if self._why_refused is not None:
                log.error("refusing run %d: %s", run_id, self._why_refused)
            self._context = Context(
                run_id=run_id,
                node_id=self._node_id,
                node_config={
                    NODE_KEY: silo_to_json(self._silo),
                    DATA_KEY: self._data_key.hex(),
                    OWN_NODE: True,
                },
                state=RecordDict(),
                run_config=dict(run.override_config),
                series_id=run.series_id,
            )
            self._restored = None
        return self._context

    def _restore(self, context: Context, message: Message) -> None:
        """Give the context the state that the silo has of the message's run, read once a run.

        Where it can't be read, that matters only to an algorithm that has one; see
        `_with_state_kept`. Raises AnotherProcess or LeaseLost.
        """
        run = _run_of(message)
        if self._states is None or run is None:
            return
        if self._restored == run and not self._gone_back(run, context, message):
            return
        self._not_restored = None
        context.state = RecordDict()
        try:
            context.state = self._states.restore(run)
        except (AnotherProcess, LeaseLost):
            raise
        except MeadowError as error:
            log.error("the state of the run %s could not be read: %s", run, error)
            self._not_restored = error
        self._restored = run

    def _gone_back(self, run: str, context: Context, message: Message) -> bool:
        """Say whether the server goes on from a round whose state is in the storage alone: it has
        fallen back to an earlier checkpoint than the one that this process heard of last.
        """
        config = protocol.records(message.content, ConfigRecord)[protocol.CONFIG]
        counted = config.get(protocol.COUNTED)
        if self._states is None or not isinstance(counted, int) or not context.state:
            return False
        return not holds(context.state, run, counted) and self._states.has(run, counted)

    def _with_state_kept(
        self, reply: Message, message: Message, key: InstructionKey | None, context: Context
    ) -> Message:
        """Store the state that a training has left, and return its reply; an error in its place
        where the state can't be stored, or where the one to begin with could not be read.

        Before the update goes into the journal or to the server: one that counts must not be ahead
        of the state. A state that is ahead of the updates does no harm, since the server says which
        round counted last. Raises AnotherProcess or LeaseLost.
        """
        if self._states is None:
            return reply
        error = self._not_restored
        if error is None:
            if key is None or reply.has_error():
                return reply
            try:
                self._states.keep(key.run, key.round, context.state)
                return reply
            except (AnotherProcess, LeaseLost):
                raise
            except MeadowError as failed:
                error = failed
        elif not (context.state or reply.has_error() or self._needs_state == _run_of(message)):
            return reply
        self._needs_state = self._restored
        # Read anew with the next message: the storage may be well again by then.
        self._restored = None
        return _failure(error, message)


def _call(
    app: ClientAppCallable, message: Message, context: Context
) -> tuple[Message, DeviceLost | None]:
    """Return the app's reply, or what it raised as an error that names it; beside it what this process
    has lost for good.
    """
    try:
        return packing_mod(message, context, app), None
    except NotWanted:
        raise CallRefused("its round has closed, so it was not worked on any longer") from None
    except Exception as error:  # an app may raise anything, and the federation must hear of it
        return _failure(error, message), error if isinstance(error, DeviceLost) else None


def _content_of(tree: ObjectTree) -> str:
    """Return the object id of an instruction's records: the same in every copy of it."""
    return tree.children[0].object_id if tree.children else ""


def _as_it_travels(reply: Message) -> tuple[Message, ObjectTree, dict[str, Content]]:
    """Return a reply's head, tree and objects; what can't travel is a failure of the app's and not
    of the node.
    """
    try:
        id, tree, contents = cut(reply)
    except Exception as error:  # whatever the app has put into its records
        reply = _failure(error, reply)
        id, tree, contents = cut(reply)
    reply.metadata.__dict__["_message_id"] = id
    return remove_content_from_message(reply), tree, contents


def _failure(error: Exception, message: Message) -> Message:
    """Return what an app raised as an error that names it, in answer to a message or in a reply's
    place.
    """
    if isinstance(error, MeadowError):
        log.error("%s", error)
    elif not isinstance(error, CrossedError):
        log.error("the app raised", exc_info=error)
    told = Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, across(error))
    if message.metadata.reply_to_message_id:
        return make_message(metadata=message.metadata, error=told)
    return Message(told, reply_to=message)


def _run_of(message: Message) -> str | None:
    """Return Meadow's id of the run that a message belongs to; None where it names none."""
    config = protocol.records(message.content, ConfigRecord).get(protocol.CONFIG, ConfigRecord())
    run = config.get(protocol.RUN_ID)
    return run if isinstance(run, str) else None


def _key_of(message: Message, tree: ObjectTree) -> InstructionKey | None:
    """Return which round of which run a message trains; None for any other message."""
    run = _run_of(message)
    if run is None or not message.metadata.message_type.startswith("train") or not tree.children:
        return None
    round = protocol.records(message.content, ConfigRecord)[protocol.CONFIG].get(protocol.ROUND)
    if not isinstance(round, int):
        return None
    return InstructionKey(run, round, tree.children[0].object_id)

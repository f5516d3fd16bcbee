"""Engine pool: a Flower `Grid` that calls the ClientApp here (`workers=0`) or in warm worker
processes.

with PoolGrid(silos, workers=2) as grid:
    federate(run, grid)
"""

from __future__ import annotations

import atexit
import copy
import hashlib
import logging
import secrets
import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from uuid import uuid4

from flwr.app import Context, Error, Message, RecordDict, UserConfig
from flwr.common.constant import ErrorCode
from flwr.supercore.run import Run

from conf.errors import SiloError
from conf.schema import Silo
from conf.silos import silo_to_json
from server.engines.assignment import WorkerAssignment
from server.engines.server_identity import give_identity_back, take_identity
from server.engines.worker import Worker, WorkerDied, answer, end_fork_server, load_app
from server.round.silo_grid import SiloGrid

log = logging.getLogger(__name__)

DEATHS_IN_A_ROW = 3
"""Workers that one silo may end one after another before it is no longer tried."""
CLOSE_SECONDS = 2.0
"""For all workers to end when the pool is closed in the middle of a training."""


def node_id(silo: str) -> int:
    """Return a silo's node id: a positive 63-bit number made from its name, so that it never
    changes.
    """
    return int.from_bytes(hashlib.sha256(silo.encode()).digest()[:8], "big") >> 1


class PoolGrid(SiloGrid):
    """The silos of one machine behind Flower's `Grid`, without Ray and without polling.

    `workers=0` runs one client after another in the thread that waits for replies, so that a
    debugger stops inside the training loop. `workers=N` keeps N processes; a silo always goes to
    the same one. `app` is the ClientApp as `module:attribute`; `malloc` keeps activations mapped
    there; `log` is the file that workers write to; `states` holds the silos' states by name, and is
    kept up to date. Raises SiloError MDW-310 where the app can't be
    imported, MDW-311 where workers do not start.
    """

    def __init__(
        self,
        silos: list[Silo],
        workers: int,
        app: str = "client.app:app",
        malloc: bool = True,
        log: Path | None = None,
        states: dict[str, RecordDict] | None = None,
    ) -> None:
        self._app = load_app(app)
        self._identity = take_identity(run_id := secrets.randbits(63))
        self._run = Run.create_empty(run_id)
        self._silos = {node_id(silo.name): silo for silo in silos}
        self._indices = {node: index for index, node in enumerate(self._silos)}
        self._states = {} if states is None else states
        self._contexts = {}
        for node, silo in self._silos.items():
            state = self._states.get(silo.name, RecordDict())
            self._contexts[node] = _context(run_id, node, silo, state)
        workers = min(workers, len(silos))
        self._assignment = WorkerAssignment(len(silos), max(workers, 1))
        self._queues: list[deque[Message]] = [deque() for _ in range(max(workers, 1))]
        self._open: set[str] = set()  # messages whose reply nobody has had yet
        self._done: dict[
            str, Message
        ] = {}  # replies in the order of arrival, by the message they answer
        self._late = 0
        self._deaths: Counter[int] = Counter()
        self._failure: SiloError | None = None
        self._closed = False
        self._change = threading.Condition()
        self._workers = [Worker(app, keep_mapped=malloc, log_file=log) for _ in range(workers)]
        self._threads = [
            threading.Thread(
                target=self._keep, args=(worker, queue), name="meadow pool", daemon=True
            )
            for worker, queue in zip(self._workers, self._queues, strict=False)
        ]
        atexit.register(self.close)  # before multiprocessing waits for its children
        for thread in self._threads:
            thread.start()

    # ---- Flower's Grid ----

    @property
    def run(self) -> Run:
        """The run that messages are made for."""
        return self._run

    def get_node_ids(self) -> list[int]:
        """Return the node ids in the order of the silos."""
        return list(self._silos)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Queue the messages, each for its silo's worker; the id of one to an unknown node is
        empty.
        """
        ids = []
        with self._change:
            if not self._open and not any(worker.busy for worker in self._workers):
                self._assignment.rebalance_once()
            for message in messages:
                known = message.metadata.dst_node_id in self._silos
                ids.append(self._queue(message) if known else "")
            self._change.notify_all()
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the replies that are there; with `workers=0` one waiting client runs first."""
        wanted = set(message_ids)
        if not self._workers and not wanted & self._done.keys():
            self._run_here(wanted)
        with self._change:
            self._raise_failure()
            return [self._hand_over(id) for id in list(self._done) if id in wanted]

    # ---- what Meadow's grids offer beside it ----

    def names(self) -> dict[int, str]:
        """Return the silos' names by node id."""
        return {node: silo.name for node, silo in self._silos.items()}

    @property
    def late(self) -> int:
        """Replies dropped because their round was closed."""
        return self._late

    def replies(self, message_ids: Iterable[str], timeout: float | None) -> Iterator[Message]:
        """Yield replies as they arrive, until all are there or `timeout` seconds have passed; None
        = no limit.

        Raises SiloError where the workers can't go on.
        """
        wanted = set(message_ids)
        deadline = None if timeout is None else time.monotonic() + timeout
        while (reply := self._next(wanted, deadline)) is not None:
            yield reply

    def forget(self, message_ids: Iterable[str]) -> None:
        """Drop messages that are no longer waited for, and their replies when they come."""
        with self._change:
            gone = self._open.intersection(message_ids)
            self._open -= gone
            for id in gone:
                self._done.pop(id, None)
            for queue in self._queues:
                kept = [message for message in queue if message.metadata.message_id not in gone]
                queue.clear()
                queue.extend(kept)
            self._change.notify_all()

    def close(self) -> None:
        """End the workers, those in the middle of a training too, and give Flower's task identity
        back.
        """
        with self._change:
            if self._closed:
                return
            self._closed = True
            self._change.notify_all()
        atexit.unregister(self.close)
        for worker in self._workers:
            if worker.busy:
                worker.end()
        deadline = time.monotonic() + CLOSE_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        if any(worker.waiting for worker in self._workers):
            end_fork_server()
        give_identity_back(self._identity)

    def __enter__(self) -> PoolGrid:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # ---- waiting ----

    def _next(self, wanted: set[str], deadline: float | None) -> Message | None:
        """Return one wanted reply as soon as it is there; None when there is none to come or the
        time is up.
        """
        while True:
            with self._change:
                self._raise_failure()
                wanted &= self._open
                for id in self._done:
                    if id in wanted:
                        return self._hand_over(id)
                left = None if deadline is None else deadline - time.monotonic()
                if not wanted or self._closed or (left is not None and left <= 0):
                    return None
                if self._workers:
                    self._change.wait(left)
            if not self._workers:
                self._run_here(wanted)

    def _hand_over(self, id: str) -> Message:
        self._open.discard(id)
        return self._done.pop(id)

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    # ---- working ----

    def _queue(self, message: Message) -> str:
        id = message.metadata.__dict__["_message_id"] = str(uuid4())
        self._open.add(id)
        self._queues[
            self._assignment.worker_of(self._indices[message.metadata.dst_node_id])
        ].append(message)
        return id

    def _run_here(self, wanted: set[str]) -> None:
        """Run the first waiting client in this thread, on copies of what it is given, as a worker
        would.
        """
        queue = self._queues[0]
        message = next((m for m in queue if m.metadata.message_id in wanted), None)
        if message is None:
            return
        queue.remove(message)
        given, context = (
            copy.copy(message),
            copy.deepcopy(self._contexts[message.metadata.dst_node_id]),
        )
        given.content = copy.deepcopy(message.content)
        self._deliver(message, answer(self._app, given, context), context)

    def _keep(self, worker: Worker, queue: deque[Message]) -> None:
        """Keep one worker busy until the pool is closed; runs in a thread of its own."""
        try:
            worker.start()
            while (message := self._take(worker, queue)) is not None:
                self._ask(worker, message)
        except SiloError as error:
            with self._change:
                self._failure = error
                self._change.notify_all()
        finally:
            worker.stop()

    def _take(self, worker: Worker, queue: deque[Message]) -> Message | None:
        with self._change:
            worker.busy = False
            self._change.wait_for(lambda: queue or self._closed)
            worker.busy = not self._closed
            return None if self._closed else queue.popleft()

    def _ask(self, worker: Worker, message: Message) -> None:
        node = message.metadata.dst_node_id
        if self._deaths[node] >= DEATHS_IN_A_ROW:
            self._deliver(
                message,
                self._crashed(message, f"{DEATHS_IN_A_ROW} times in a row, it is not tried again"),
            )
            return
        started = time.monotonic()
        try:
            reply, context = worker.ask(message, self._contexts[node])
        except WorkerDied as death:
            self._deaths[node] += 1
            self._deliver(message, self._crashed(message, str(death)))
            worker.stop()
            if not self._closed:
                worker.start()
            return
        self._deaths[node] = 0
        if message.metadata.message_type.startswith("train"):
            self._assignment.record(self._indices[node], time.monotonic() - started)
        self._deliver(message, reply, context)

    def _crashed(self, message: Message, how: str) -> Message:
        name = self._silos[message.metadata.dst_node_id].name
        log.warning("the worker process of silo %s ended: %s", name, how)
        reason = f"WorkerDied: the process of silo {name} ended: {how}"
        return Message(Error(ErrorCode.CLIENT_APP_CRASHED, reason), reply_to=message)

    def _deliver(self, message: Message, reply: Message, context: Context | None = None) -> None:
        node, id = message.metadata.dst_node_id, message.metadata.message_id
        reply.metadata.__dict__["_message_id"] = str(uuid4())
        with self._change:
            if context is not None and not reply.has_error():
                self._contexts[node] = context
                if context.state:
                    self._states[self._silos[node].name] = context.state
            if id in self._open:
                self._done[id] = reply
                self._change.notify_all()
            else:
                self._late += 1
                log.info(
                    "dropped a late reply of silo %s: its round is closed", self._silos[node].name
                )


def _context(run_id: int, node: int, silo: Silo, state: RecordDict) -> Context:
    config: UserConfig = {
        "partition-id": silo.index,
        "num-partitions": silo.of,
        "silo": silo_to_json(silo),
    }
    return Context(run_id=run_id, node_id=node, node_config=config, state=state, run_config={})

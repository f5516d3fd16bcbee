"""Engine pool: a Flower `Grid` that calls the ClientApp here (`workers=0`) or in warm worker
processes.

with PoolGrid(silos, workers=2) as grid:
    federate(run, grid)
"""

from __future__ import annotations

import atexit
import copy
import logging
import secrets
import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Any
from uuid import uuid4

from flwr.app import ArrayRecord, Context, Error, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.supercore.run import Run

from client import placement
from client.device_failures import DeviceLost
from conf.errors import MeadowError, SiloError
from conf.schema import Silo
from server.engines.calls import WaitingCall
from server.engines.measuring import Measuring
from server.engines.pipe import Call
from server.engines.queues import STEAL_SECONDS, Job, SiloQueues
from server.engines.server_identity import give_identity_back, take_identity
from server.engines.silo_context import context_of, node_id
from server.engines.worker import Worker, WorkerDied, answer, end_fork_server, load_app
from server.round.decoding import Decoding
from server.round.sent_model import Known, Measured
from server.round.silo_grid import SiloGrid
from strategies.wire import protocol

log = logging.getLogger(__name__)

APP = "client.app:app"
"""The ClientApp of this tree, as `module:attribute`."""
DEATHS_IN_A_ROW = 3
"""Workers that one silo may end one after another before it is no longer tried."""
CLOSE_SECONDS = 2.0
"""For all workers to end when the pool is closed in the middle of a training."""


class PoolGrid(SiloGrid):
    """The silos of one machine behind Flower's `Grid`, without Ray and without polling.

    `workers=0` runs one client after another in the thread that waits for replies, so that a
    debugger stops inside the training loop. `workers=N` keeps N processes; a silo always goes to
    the same one. `app` is the ClientApp as `module:attribute`; `malloc` keeps activations mapped
    there; `log` is the file that workers write to; `states` holds the silos' states by name, and is
    kept up to date; the processes share `gpus` GPUs (`client.placement`). Raises SiloError MDW-310
    where the app can't be imported, MDW-311 where workers do not start, MDW-345.
    """

    def __init__(
        self,
        silos: list[Silo],
        workers: int,
        app: str = APP,
        malloc: bool = True,
        log: Path | None = None,
        states: dict[str, RecordDict] | None = None,
        gpus: int | None = None,
    ) -> None:
        self._app = load_app(app)
        workers = min(workers, len(silos))
        processes = max(workers, 1)
        places = [
            placement.placement(number, processes, placement.shared(gpus), meant=gpus == 0)
            for number in range(processes)
        ]
        self._here = places[0]
        self._identity = take_identity(run_id := secrets.randbits(63))
        self._run = Run.create_empty(run_id)
        self._silos = {node_id(silo.name): silo for silo in silos}
        self._nodes = list(self._silos)
        self._names = [silo.name for silo in silos]
        self._indices = {node: index for index, node in enumerate(self._nodes)}
        self._states = {} if states is None else states
        self._contexts = {}
        for node, silo in self._silos.items():
            state = self._states.get(silo.name, RecordDict())
            self._contexts[node] = context_of(run_id, node, silo, state)
        self._queues = SiloQueues(len(silos), processes)
        self._open: set[str] = set()  # messages whose reply nobody has had yet
        self._done: dict[
            str, Message
        ] = {}  # replies in the order of arrival, by the message they answer
        self._calls: deque[WaitingCall] = deque()
        self._late = 0
        self._measuring: Measuring | None = None
        self._measured: dict[str, Known] = {}  # of replies that nobody has judged, by message
        self._deaths: Counter[int] = Counter()
        self._failure: MeadowError | None = None
        self._closed = False
        self._change = threading.Condition()
        self._workers = [
            Worker(app, keep_mapped=malloc, log_file=log, place=place) for place in places[:workers]
        ]
        self._threads = [
            threading.Thread(target=self._keep, args=(number,), name="meadow pool", daemon=True)
            for number in range(workers)
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
        jobs = []
        for message in messages:
            silo = self._indices.get(message.metadata.dst_node_id)
            if silo is None:
                ids.append("")
                continue
            job = Job(message, silo, id=str(uuid4()))
            message.metadata.__dict__["_message_id"] = job.id
            ids.append(job.id)
            jobs.append(job)
        with self._change:
            self._open.update(job.id for job in jobs)
            self._queues.push(jobs, time.monotonic())
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

    def measure(self, sketch_seed: int | None, decoding: Decoding | None = None) -> None:
        """Let the workers measure updates (`server.engines.measuring`)."""
        self._measuring = Measuring(sketch_seed, decoding)

    def measured(self, reply: Message) -> Known | None:
        """Return what a worker measured of a reply, once."""
        with self._change:
            return self._measured.pop(reply.metadata.reply_to_message_id, None)

    def call(self, call: Call) -> Future[Any]:
        """Let an idle worker call a function; the future has what it returns or raises.

        It is SiloError MDW-317 where two workers end over it, one after the other. Without
        `workers` nobody would ever do it.
        """
        waiting = WaitingCall(call)
        with self._change:
            if self._closed:
                waiting.future.cancel()
            self._calls.append(waiting)
            self._change.notify_all()
        return waiting.future

    @property
    def workers(self) -> int:
        """How many processes there are; 0 where clients run in the caller's thread."""
        return len(self._workers)

    def forget(self, message_ids: Iterable[str]) -> None:
        """Drop messages that are no longer waited for, and their replies when they come."""
        with self._change:
            gone = self._open.intersection(message_ids)
            self._open -= gone
            for id in gone:
                self._done.pop(id, None)
                self._measured.pop(id, None)
            self._queues.drop(gone)
            self._change.notify_all()

    def close(self) -> None:
        """End the workers, those in the middle of a training too, and give Flower's task identity
        back.
        """
        with self._change:
            if self._closed:
                return
            self._closed = True
            for waiting in self._calls:
                waiting.future.cancel()
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

    def _run_here(self, wanted: set[str]) -> None:
        """Run the first waiting client in this thread, on copies of what it is given, as a worker
        would.
        """
        job = self._queues.first(wanted)
        if job is None:
            return
        given = copy.copy(job.message)
        given.content = copy.deepcopy(job.message.content)
        context = copy.deepcopy(self._contexts[job.message.metadata.dst_node_id])
        with placement.told_here(self._here):
            reply, lost = answer(self._app, given, context)
        self._deliver(job.message, reply, context)
        if lost is not None:
            # There is no other process: the run ends here, and is resumed by one that has a device.
            self._failure = lost

    def _keep(self, number: int) -> None:
        """Keep one worker busy until the pool is closed; runs in a thread of its own."""
        worker = self._workers[number]
        try:
            worker.start()
            while work := self._take(number):
                if isinstance(work, WaitingCall):
                    self._call(number, work)
                else:
                    self._ask(number, work)
        except SiloError as error:
            with self._change:
                self._failure = error
                for waiting in self._calls:
                    waiting.future.set_exception(error)
                self._calls.clear()
                self._change.notify_all()
        finally:
            worker.stop()

    def _take(self, number: int) -> list[Job] | WaitingCall:
        """Return what a worker does next, as soon as there is something; nothing at the end."""
        worker = self._workers[number]
        with self._change:
            worker.busy = False
            while not self._closed:
                if self._calls:
                    worker.busy = True
                    return self._calls.popleft()
                jobs = self._queues.take(number, time.monotonic())
                if jobs:
                    worker.busy = True
                    return jobs
                # Something that waits for another worker may have waited for long enough by then.
                others = self._queues.others_wait(number)
                self._change.wait(STEAL_SECONDS if others else None)
            return []

    def _ask(self, number: int, jobs: list[Job]) -> None:
        """Let a worker answer some messages; what it has not begun when it dies is queued again."""
        worker = self._workers[number]
        waiting = deque(self._to_be_tried(number, jobs))
        if not waiting:
            return
        with self._change:
            given = [(job.message, self._contexts[self._nodes[job.silo]]) for job in waiting]
            goodbye = [self._names[silo] for silo in self._queues.left(number)]
        started = time.monotonic()
        try:
            for reply, context, measured, last in worker.ask(
                given, goodbye=goodbye, measuring=self._measuring
            ):
                given = []
                job = waiting.popleft()
                ended = time.monotonic()
                self._deaths[job.silo] = 0
                # In this order: the silo's next message, at whichever worker, takes its state. At
                # once: who waits is woken one time and not two.
                with self._change:
                    self._deliver(job.message, reply, context, measured)
                    self._answered(number, job, ended - started)
                started = ended
                del reply, context, measured
                if last:
                    self._retired(number, waiting)
        except WorkerDied as death:
            self._died(number, waiting, str(death))

    def _retired(self, number: int, waiting: deque[Job]) -> None:
        """Put another in the place of a worker that has lost its device and said so: that was its
        answer, and what it has not begun is nobody's failure.
        """
        with self._change:
            self._queues.give_back(number, list(waiting))
        self._again(self._workers[number])

    def _call(self, number: int, waiting: WaitingCall) -> None:
        """Let a worker call a function; where the worker ends over it, another tries once more."""
        worker = self._workers[number]
        try:
            waiting.future.set_result(worker.call(waiting.call))
        except WorkerDied as death:
            with self._change:
                if waiting.ended(str(death)):
                    self._calls.append(waiting)
                    self._change.notify_all()
            self._again(worker)
        except Exception as error:
            waiting.future.set_exception(error)
            if isinstance(error, DeviceLost):
                self._again(worker)

    def _again(self, worker: Worker) -> None:
        """Start a worker again that has ended."""
        worker.stop()
        if not self._closed:
            worker.start()

    def _to_be_tried(self, number: int, jobs: list[Job]) -> list[Job]:
        """Return the messages to silos that have not ended one worker after another."""
        tried = [job for job in jobs if self._deaths[job.silo] < DEATHS_IN_A_ROW]
        for job in jobs:
            if job not in tried:
                self._answered(number, job)
                why = f"{DEATHS_IN_A_ROW} times in a row, it is not tried again"
                self._deliver(job.message, self._crashed(job.message, why))
        return tried

    def _answered(self, number: int, job: Job, seconds: float | None = None) -> None:
        with self._change:
            self._queues.answered(number, job, time.monotonic())
            if seconds is not None:
                self._queues.costs.record(job.silo, job.kind, seconds)
            # Another message to this silo may have waited for it.
            self._change.notify_all()

    def _died(self, number: int, waiting: deque[Job], how: str) -> None:
        """Start a worker again that died at the first of some messages."""
        job = waiting.popleft()
        self._deaths[job.silo] += 1
        self._answered(number, job)
        with self._change:
            self._queues.give_back(number, list(waiting))
        self._deliver(job.message, self._crashed(job.message, how))
        self._again(self._workers[number])

    def _crashed(self, message: Message, how: str) -> Message:
        name = self._silos[message.metadata.dst_node_id].name
        log.warning("the worker process of silo %s ended: %s", name, how)
        reason = f"WorkerDied: the process of silo {name} ended: {how}"
        return Message(Error(ErrorCode.CLIENT_APP_CRASHED, reason), reply_to=message)

    def _deliver(
        self,
        message: Message,
        reply: Message,
        context: Context | None = None,
        measured: Measured | None = None,
    ) -> None:
        node, id = message.metadata.dst_node_id, message.metadata.message_id
        reply.metadata.__dict__["_message_id"] = str(uuid4())
        with self._change:
            if context is not None and not reply.has_error():
                self._contexts[node] = context
                if context.state:
                    self._states[self._silos[node].name] = context.state
            if id in self._open:
                self._done[id] = reply
                if measured is not None:
                    self._measured[id] = Known(measured, _model_in(message))
                self._change.notify_all()
            else:
                self._late += 1
                log.info(
                    "dropped a late reply of silo %s: its round is closed", self._silos[node].name
                )


def _model_in(message: Message) -> ArrayRecord:
    return protocol.records(message.content, ArrayRecord)[protocol.ARRAYS]

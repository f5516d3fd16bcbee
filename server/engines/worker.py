"""A warm worker of the pool: a process of the standard library's fork server that calls the
ClientApp.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import NamedTuple

from flwr.app import Context, Error, Message
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode

from client import malloc, placement
from client.device_failures import LOST_STATUS, DeviceLost
from client.placement import Placement
from conf.errors import SiloError
from conf.files.whole import open_for_append
from conf.targets import known
from server.engines.measuring import Measurer, Measuring
from server.engines.pipe import Call, Job, PipeEnd, Received, widened
from server.engines.private_folder import folder_of_this_process
from server.round.sent_model import Measured

log = logging.getLogger(__name__)

PRELOAD = (
    "torch",
    "flwr.app",
    "flwr.clientapp",
    "server.engines.worker",
)
"""Modules that the fork server imports once, so that a worker starts in milliseconds."""
GOODBYE_SECONDS = 1.0
"""For a worker to end by itself or on SIGTERM before it is killed."""

SOCKET_BELOW = len("/listener-12345678")
"""Characters that the fork server's socket adds to the path of its folder."""

_starting = threading.Lock()


def load_app(reference: str) -> ClientApp:
    """Return the ClientApp at `package.module:attribute`.

    Raises SiloError MDW-310 where there is none.
    """
    module, _, attribute = reference.partition(":")
    try:
        app = getattr(importlib.import_module(module), attribute)
    except Exception as error:
        raise SiloError(
            "MDW-310",
            f"The ClientApp {reference} can't be imported: {type(error).__name__}: {error}.",
            "Name it package.module:attribute, in a module that can be imported from here.",
        ) from error
    if module == "__main__" or not isinstance(app, ClientApp):
        raise SiloError(
            "MDW-310",
            f"{reference} is no ClientApp of an importable module.",
            "Put the ClientApp into a module of its own: workers import it by name.",
        )
    return app


def answer(app: ClientApp, message: Message, context: Context) -> tuple[Message, DeviceLost | None]:
    """Return the app's reply; an exception becomes an error reply that says its type and text.

    With it what this process has lost for good: it has to end after this answer.
    """
    try:
        return app(message, context), None
    except (Exception, SystemExit) as error:
        log.exception("the ClientApp raised at node %s", context.node_id)
        reason = f"{type(error).__name__}: {error}"
        failure = Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=message)
        return failure, error if isinstance(error, DeviceLost) else None


@dataclass(frozen=True)
class Ending:
    """Beside a reply: it is the worker's last one, because the device is lost to its process."""


class Answered(NamedTuple):
    """A reply, the silo's context after it, what the worker measured of an update, and whether this
    is the last answer of its process.
    """

    reply: Message
    context: Context
    measured: Measured | None
    last: bool = False


def _answered(received: Received) -> Answered:
    reply, context = received.jobs[0]
    beside = received.beside
    measured = beside if isinstance(beside, Measured) else None
    return Answered(reply, context, measured, last=isinstance(beside, Ending))


class WorkerDied(Exception):
    """A worker's process ended while it had a message."""


class Worker:
    """The parent's hold of one worker process. `start` again after WorkerDied gives a fresh one."""

    def __init__(
        self,
        app: str,
        *,
        keep_mapped: bool,
        log_file: Path | None,
        place: Placement | None = None,
    ) -> None:
        self._app = app
        self._keep_mapped = keep_mapped
        self._log_file = str(log_file.resolve()) if log_file else None
        self._place = place
        self._process: ForkServerProcess | None = None
        self._connection: Connection | None = None
        self._pipe: PipeEnd | None = None
        self.busy = True  # starting, or at a message: it has to be ended rather than asked to end
        self.waiting = False  # for the fork server, which may still be importing

    def start(self) -> None:
        """Start the process and wait until it has imported the app.

        Raises SiloError MDW-311 where it can't.
        """
        context = multiprocessing.get_context("forkserver")
        ours, theirs = context.Pipe()
        widened(theirs)
        told = placement.environment(self._place)
        environment = {**os.environ, known.VARIABLE: known.exported(), **told}
        if not self._keep_mapped:
            environment[malloc.VARIABLE] = "0"
        arguments = (theirs, environment, self._app, self._log_file)
        self._connection, self._pipe = ours, PipeEnd(ours)
        process = context.Process(target=_serve, args=arguments, name="meadow worker")
        try:
            self.waiting = True
            with _starting:
                start_fork_server(self._app.partition(":")[0])
                with main_hidden():
                    process.start()
            self.waiting = False
            self._process = process
            theirs.close()
            problem = ours.recv()
        except (EOFError, OSError) as error:
            theirs.close()
            problem = (
                f"it ended at once ({self._how_it_ended()})" if self._process else f"{error!r}"
            )
        if problem:
            self.stop()
            raise SiloError(
                "MDW-311",
                f"A worker of the pool did not start: {problem}.",
                "simulation.workers=0 runs without any.",
            )

    def ask(
        self,
        jobs: Sequence[Job],
        *,
        goodbye: Iterable[str] = (),
        measuring: Measuring | None = None,
    ) -> Iterator[Answered]:
        """Send messages with their silos' contexts; yield each answer as it is done, in the order of
        the messages.

        With `measuring` updates are measured there. The worker lets go of what it has of the silos
        named in `goodbye`. Raises WorkerDied, which says how it ended.
        """
        assert self._pipe is not None
        try:
            self._pipe.send(jobs, remember=True, goodbye=goodbye, beside=measuring)
            for _ in jobs:
                # Not held here while the next one is made: a reply is as large as the model.
                yield (answered := _answered(self._pipe.receive()))
                last = answered.last
                del answered
                if last:
                    return
        except (EOFError, OSError) as error:
            raise WorkerDied(self._how_it_ended()) from error

    def call(self, call: Call) -> object:
        """Return what a function returns there, or raise what it raises.

        Raises WorkerDied, which says how the process ended.
        """
        assert self._pipe is not None
        try:
            self._pipe.send([], call=call, remember=True)
            value = self._pipe.receive_value()
        except (EOFError, OSError) as error:
            raise WorkerDied(self._how_it_ended()) from error
        if isinstance(value, BaseException):
            raise value
        return value

    def end(self) -> None:
        """End the process at once, from any thread, whatever it does."""
        process = self._process
        # The thread that keeps it may stop it, and close it, at this very moment.
        with contextlib.suppress(ValueError):
            if process is not None and process.is_alive():
                process.terminate()

    def stop(self) -> None:
        """Let an idle process end by itself; kill it where it does not."""
        if self._connection is not None:
            self._connection.close()
        process, self._process = self._process, None
        if process is None:
            return
        process.join(GOODBYE_SECONDS)
        if process.is_alive():
            process.kill()
            process.join()
        process.close()

    def _how_it_ended(self) -> str:
        assert self._process is not None
        self._process.join(GOODBYE_SECONDS)
        code = self._process.exitcode
        if code is None:
            return "its pipe broke"
        if code >= 0:
            return f"exit code {code}"
        name = signal.Signals(-code).name
        return (
            f"{name}, most likely out of memory: try fewer simulation.workers"
            if name == "SIGKILL"
            else name
        )


def start_fork_server(app_module: str) -> None:
    """Start the fork server where it does not run yet, with the parent's import path and deaf to
    Ctrl-C.
    """
    multiprocessing.get_context("forkserver").set_forkserver_preload([*PRELOAD, app_module])
    path = os.pathsep.join(p or os.getcwd() for p in sys.path)
    before = {
        name: os.environ.get(name) for name in ("PYTHONPATH", "PYTHONSAFEPATH", malloc.VARIABLE)
    }
    # Before SIGINT is blocked: in Python 3.11 it unblocks SIGINT once it has started, and the fork
    # server, which starts it otherwise, would hear Ctrl-C.
    resource_tracker.ensure_running()
    # The mask is inherited: the fork server is deaf while it imports, too.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    # Python 3.11 does not hand sys.path to what it preloads; a stray `client` in this folder must
    # not be taken.
    os.environ.update({"PYTHONPATH": path, "PYTHONSAFEPATH": "1", malloc.VARIABLE: "0"})
    try:
        with _temporary_files_in(folder_of_this_process(SOCKET_BELOW)):
            forkserver.ensure_running()
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


@contextlib.contextmanager
def _temporary_files_in(folder: Path) -> Iterator[None]:
    """Let `multiprocessing` put sockets into a folder that is short enough for one and closed to
    others.

    Whoever reaches the fork server's socket can run code here, and a long TMPDIR leaves no room for
    its path.
    """
    settings = multiprocessing.current_process()._config  # type: ignore[attr-defined]  # the only place of its folder
    before = settings.get("tempdir")
    settings["tempdir"] = str(folder)
    try:
        yield
    finally:
        settings["tempdir"] = before


def end_fork_server() -> None:
    """End a fork server that is still importing; a later pool starts another."""
    pid = getattr(forkserver._forkserver, "_forkserver_pid", None)
    if pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)


@contextlib.contextmanager
def main_hidden() -> Iterator[None]:
    """Keep processes started inside from importing the main module again.

    A script without `if __name__ == "__main__"` would otherwise run once more in every worker.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = type(main)("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _serve(
    connection: Connection, environment: dict[str, str], reference: str, log_file: str | None
) -> None:
    """Be a worker: answer messages until the parent closes the pipe or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ.clear()
    os.environ.update(environment)
    if log_file:
        _write_to(log_file)
    try:
        app = load_app(reference)
        malloc.keep_activations_mapped.cache_clear()  # it was off in the fork server
        malloc.keep_activations_mapped()
        connection.send("")
    except Exception as error:
        connection.send(str(error))
        return
    pipe = PipeEnd(connection)
    measurer = Measurer()
    with contextlib.suppress(EOFError, OSError):
        while True:
            received = pipe.receive()
            let_go(received.goodbye)
            if received.call is not None:
                value = _called(received.call)
                pipe.send_value(value)
                _end_if_lost(value)
            # Each is freed before the next one begins.
            jobs = received.jobs[::-1]
            measuring = received.beside
            del received
            while jobs:
                message, context = jobs.pop()
                asked = measurer.asked_in(message)
                reply, lost = answer(app, message, context)
                beside: object = None if lost is None else Ending()
                if lost is None and isinstance(measuring, Measuring):
                    beside = measurer.measured(measuring, asked, reply)
                pipe.send([(reply, context)], beside=beside)
                _end_if_lost(lost)
                del message, context, asked, reply


def _end_if_lost(failure: object) -> None:
    """End this process where it can't use its device any more, without a last word to that."""
    if isinstance(failure, DeviceLost):
        log.error("this process ends with status %d, and another comes: %s", LOST_STATUS, failure)
        os._exit(LOST_STATUS)


def _called(call: Call) -> object:
    """Return what a function returns, or the exception that it raises."""
    module, _, name = call.function.partition(":")
    try:
        return getattr(importlib.import_module(module), name)(call.model, call.argument)
    except Exception as error:
        # Where it happened stays here.
        log.exception("%s raised", call.function)
        return _able_to_travel(error)


def _able_to_travel(error: Exception) -> Exception:
    """Return an exception, or one of the same words where it can't be made again from its arguments."""
    try:
        again = copy.copy(error)
    except Exception:
        again = None
    if type(again) is type(error) and str(again) == str(error):
        return error
    return RuntimeError(f"{type(error).__name__}: {error}")


def let_go(silos: list[str]) -> None:
    """Free the data of silos that another process has now, where the app keeps any."""
    cache = sys.modules.get("client.cache")
    if silos and cache is not None:
        cache.let_go(silos)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _write_to(log_file: str) -> None:
    target = open_for_append(Path(log_file))
    for stream in (1, 2):
        os.dup2(target, stream)
    os.close(target)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # a text file in every worker

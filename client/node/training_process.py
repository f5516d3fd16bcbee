"""A silo's app in a process of its own, which may be killed, hang or run out of memory: that costs
the round, and the silo's node goes on.

    MDW-353 the process ended                  MDW-355 its memory's limit is reached
    MDW-354 it took longer than it may         MDW-356 it can't be started as its owner wants it
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from typing import Any, Final

from flwr.app import Context, Message, RecordDict

from client.capacity import bytes_of
from client.node.memory_limit import NOTHING, MemoryGroup, make_group
from client.node.training_frames import (
    Frame,
    message_of,
    receive,
    send,
    state_of,
    with_message,
    with_state,
)
from conf import errors
from conf.border import CrossedError
from conf.errors import MeadowError, SiloError
from conf.schema import Silo
from conf.silos import silo_to_json

log = logging.getLogger(__name__)

START_SECONDS: Final = 300.0
"""For the process to import what it needs, on a slow disk."""
END_SECONDS: Final = 10.0
"""After which a process that was to end is killed."""


class TrainingProcess:
    """Answers messages as an app does, in a process of its own; one caller at a time."""

    def __init__(self, app: str, silo: Silo, code: str) -> None:
        """Start the process; `app` is as `client.node.job.load_app` takes it, `code` the digest of
        this process's release, with which the other one's must agree.
        """
        self._app = app
        self._silo = silo
        self._code = code
        self._child: _Child | None = None
        self._state: RecordDict | None = None
        """What the process has as its state; another one is sent along."""
        self._start()

    def __call__(self, message: Message, context: Context) -> Message:
        """Return the app's reply.

        Raises what the app raised: a MeadowError as it was, anything else as CrossedError; SiloError
        MDW-353 to MDW-356 where the process has failed. The next message has another process.
        """
        if self._child is None:
            self._start()
        child = self._child
        assert child is not None
        try:
            child.await_hello(self._code)
            frame = self._asked(message, context)
            reply = child.ask(frame, self._silo.training.seconds)
        except BaseException as error:
            # Also where this process is told to end: an answer that nobody waits for is not waited
            # for here either.
            failed = child.end(error)
            self._child = None
            if not isinstance(error, Exception):
                raise
            self._start()
            if failed is not None:
                raise failed from None
            raise
        return self._answer(reply, context)

    def close(self) -> None:
        """End the process."""
        if self._child is not None:
            self._child.end(None)
            self._child = None

    def _start(self) -> None:
        self._state = None
        self._child = _Child(self._app, self._silo)

    def _asked(self, message: Message, context: Context) -> Frame:
        given = {
            "run_id": context.run_id,
            "node_id": context.node_id,
            "node_config": dict(context.node_config),
            "run_config": dict(context.run_config),
            "series_id": context.series_id,
        }
        frame = with_message(Frame({"context": given}), message)
        return frame if context.state is self._state else with_state(frame, context.state)

    def _answer(self, reply: Frame, context: Context) -> Message:
        state = state_of(reply)
        if state is not None:
            context.state = state
        self._state = context.state
        told = reply.head.get("error")
        if told is None:
            return message_of(reply)
        if told.get("memory") == "out":
            # What else failed in there is unknown: the next round has a fresh one.
            self.close()
            self._start()
            raise self._out_of_memory()
        if told.get("last"):
            # It has lost its device, which this process has not: the next round has another one.
            self.close()
            self._start()
        raise _raised(told)

    def _out_of_memory(self) -> SiloError:
        return _memory_refused(self._silo.name)


class _Child:
    """One process, from its start to its end."""

    def __init__(self, app: str, silo: Silo) -> None:
        self._silo = silo
        self._greeted = False
        memory = silo.training.memory
        self._group: MemoryGroup | None = None
        if memory is not None:
            self._group = make_group(bytes_of(memory))
        self._end, other = socket.socketpair()
        words = [str(other.fileno()), str(os.getpid())]
        # It finds the modules that this process found, and none that happen to lie in its folder.
        command = [sys.executable, "-P", "-m", "client.node.training_child", *words]
        path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        with other:
            # A session of its own: Ctrl-C in a terminal is the node's to answer.
            self._process = subprocess.Popen(
                command,
                pass_fds=[other.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                env={**os.environ, "PYTHONPATH": path},
            )
        group = str(self._group.folder) if self._group is not None else None
        with suppress(OSError):
            # Where it has ended already, the first message finds that.
            send(self._end, Frame({"app": app, "silo": silo_to_json(silo), "group": group}))

    def await_hello(self, code: str) -> None:
        """Wait until the process is ready, once; raises SiloError MDW-356 where it is not as it
        should be.
        """
        if self._greeted:
            return
        self._end.settimeout(START_SECONDS)
        try:
            hello = receive(self._end).head
        except TimeoutError:
            what = (
                f"The training process of {self._silo.name} did not start in {START_SECONDS:.0f} s."
            )
            raise SiloError("MDW-356", what, "Look at its machine.") from None
        self._greeted = True
        if hello["code"] != code:
            what = f"The training process of {self._silo.name} runs other code than its node."
            raise SiloError("MDW-356", what, "Files were changed: start the silo's job again.")
        if self._silo.training.memory is not None and hello["limit"] == NOTHING:
            what = f"The memory of {self._silo.name}'s training process can't be limited here."
            hint = "Set training.memory to null, or run the silo on Linux."
            raise SiloError("MDW-356", what, hint)
        log.info(
            "the training process %s is ready, its memory held by %s", hello["pid"], hello["limit"]
        )

    def ask(self, frame: Frame, seconds: float | None) -> Frame:
        """Return the answer to a frame; raises TimeoutError where it takes longer than it may."""
        until = None if seconds is None else time.monotonic() + seconds
        with _Deadline(self._process, until) as deadline:
            self._end.settimeout(None)
            try:
                send(self._end, frame)
                return receive(self._end)
            except (EOFError, OSError):
                if deadline.passed:
                    raise TimeoutError from None
                raise

    def end(self, error: BaseException | None) -> SiloError | None:
        """End the process, and return what its failure is called; None where it did not fail."""
        name = self._silo.name
        ended_itself = isinstance(error, EOFError | OSError) and not isinstance(error, TimeoutError)
        if not ended_itself:
            self._kill()
        self._end.close()
        status = self._wait()
        self._kill()
        killed_for_memory = self._group is not None and self._group.kills > 0
        if self._group is not None:
            self._group.remove()
        if isinstance(error, TimeoutError):
            what = (
                f"{name} did not answer within the time that its owner gives to a round's training."
            )
            return SiloError("MDW-354", what, "Ask for fewer epochs, or talk to the owner.")
        if not ended_itself:
            return None
        log.error("the training process ended with %s", _in_words(status))
        if killed_for_memory:
            return _memory_refused(name)
        what = f"The training process of {name} ended with {_in_words(status)}."
        return SiloError(
            "MDW-353",
            what,
            "Its owner's log says more; the next round has another one.",
            {"ended": _in_words(status)},
        )

    def _kill(self) -> None:
        # With the processes that load its data.
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _wait(self) -> int:
        try:
            return self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._kill()
            return self._process.wait()


class _Deadline:
    """Kills a process that takes too long, so that whoever waits for its words is not left waiting.

    A timeout of the socket would begin anew with each piece of a long answer.
    """

    def __init__(self, process: subprocess.Popen[bytes], until: float | None) -> None:
        self._process = process
        self._until = until
        self._timer: threading.Timer | None = None
        self.passed = False

    def __enter__(self) -> _Deadline:
        if self._until is not None:
            self._timer = threading.Timer(self._until - time.monotonic(), self._end)
            self._timer.daemon = True
            self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _end(self) -> None:
        self.passed = True
        with suppress(ProcessLookupError):
            self._process.kill()


def _in_words(status: int) -> str:
    if status >= 0:
        return f"status {status}"
    try:
        return f"signal {signal.Signals(-status).name}"
    except ValueError:
        return f"signal {-status}"


def _raised(told: dict[str, Any]) -> Exception:
    """Return what the app raised, as far as it is known in this process."""
    if "crossed" in told:
        return CrossedError(str(told["crossed"]))
    cls = getattr(errors, str(told["kind"]), MeadowError)
    made: MeadowError = cls(
        str(told["code"]), str(told["message"]), str(told["hint"]), told["told"]
    )
    return made


def _memory_refused(silo: str) -> SiloError:
    return SiloError(
        "MDW-355",
        f"{silo} ran out of the memory that its owner gives to training.",
        "Ask for a smaller model or batch, or talk to the owner.",
    )

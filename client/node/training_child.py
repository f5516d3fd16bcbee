"""The process in which a silo trains where its owner wants it apart: `python -m client.node.training_child`.

It lives for many rounds, so that data, model and device stay loaded, and answers one message at a
time. Its limits are set before it reads anything of the silo's. It ends with the node that started
it, whatever happens to that.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
from pathlib import Path
from typing import Any, Final

import torch
from flwr.app import Context, RecordDict

from client.capacity import bytes_of
from client.device import choose
from client.device_failures import DeviceLost
from client.malloc import give_back
from client.node.memory_limit import (
    GPU,
    GROUP,
    NOTHING,
    RLIMIT,
    end_with_parent,
    enter_group,
    limit_data,
)
from client.node.training_frames import (
    Frame,
    message_of,
    receive,
    send,
    state_of,
    with_message,
    with_state,
)
from conf.border import CrossedError, across
from conf.errors import MeadowError
from conf.silos import silo_from_json

log = logging.getLogger(__name__)

LARGE: Final = 64 * 2**20
"""Bytes of a message from which on memory counts more than the page faults of giving it back."""
NO_MEMORY: Final = ("allocate memory", "out of memory", "bad_alloc", "Cannot allocate")
"""In what torch and libraries say where memory ran out."""


def main() -> int:
    """Answer messages until the node closes its end."""
    descriptor, parent = (int(word) for word in sys.argv[1:])
    end_with_parent(parent)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    end = socket.socket(fileno=descriptor)
    # Not an argument: a silo's settings are in no list of processes.
    start = receive(end).head
    held_by = _limited(start)
    # Imported under the limits: it reads the silo's files when it is asked to.
    from client.node.job import load_app
    from conf.code_digest import release_digest

    app = load_app(start["app"])
    send(end, Frame({"limit": held_by, "code": release_digest(), "pid": os.getpid()}))
    contexts: dict[int, Context] = {}
    while _answer_next(end, app, contexts):
        pass
    return 0


def _answer_next(end: socket.socket, app: Any, contexts: dict[int, Context]) -> bool:
    """Answer the next message, and keep nothing of it; return False where the node has closed."""
    try:
        asked = receive(end)
    except (EOFError, OSError):
        return False
    reply = _answer(app, asked, contexts)
    large = sum(array.nbytes for array in asked.arrays) >= LARGE
    del asked
    send(end, reply)
    del reply
    if large:
        give_back()
    return True


def _limited(start: dict[str, Any]) -> str:
    """Set the limits, and return by what this process's memory is held."""
    silo = silo_from_json(start["silo"])
    training = silo.training
    # The run may name another device than the silo's own; where there is a GPU, it may be used.
    on_gpu = torch.cuda.is_available() and choose(silo.device or "auto").type == "cuda"
    if on_gpu:
        for index in range(torch.cuda.device_count()):
            torch.cuda.set_per_process_memory_fraction(training.gpu_memory, index)
    if training.memory is None:
        return GPU if on_gpu and training.gpu_memory < 1 else NOTHING
    if start["group"] is not None:
        try:
            enter_group(Path(start["group"]))
            return GROUP
        except OSError as error:
            log.warning("the control group can't be entered: %s", error.strerror)
    # CUDA maps far more than it uses, which RLIMIT_DATA would count.
    if not on_gpu and limit_data(bytes_of(training.memory)):
        return RLIMIT
    return GPU if on_gpu else NOTHING


def _answer(app: Any, asked: Frame, contexts: dict[int, Context]) -> Frame:
    """Return the app's reply to a message, with the state where it has changed, or its error."""
    try:
        context = _context_of(asked, contexts)
        before = context.state
        reply = with_message(Frame({}), app(message_of(asked), context))
        return reply if context.state is before else with_state(reply, context.state)
    except Exception as error:  # the node answers in the app's name, whatever it raised
        if not isinstance(error, MeadowError | CrossedError):
            log.error("the app raised", exc_info=error)
        return Frame({"error": _told(error)})


def _context_of(asked: Frame, contexts: dict[int, Context]) -> Context:
    given = asked.head["context"]
    run_id = int(given["run_id"])
    if run_id not in contexts:
        # One run at a time, as in the node itself.
        contexts.clear()
        contexts[run_id] = Context(
            run_id=run_id,
            node_id=int(given["node_id"]),
            node_config=dict(given["node_config"]),
            state=RecordDict(),
            run_config=dict(given["run_config"]),
            series_id=int(given["series_id"]),
        )
    state = state_of(asked)
    if state is not None:
        contexts[run_id].state = state
    return contexts[run_id]


def _told(error: Exception) -> dict[str, Any]:
    """Return an error as the node raises it again: Meadow's own whole, any other as it may cross."""
    full = _is_out_of_memory(error)
    of_the_device = isinstance(error, MeadowError) and isinstance(
        error.__cause__, torch.OutOfMemoryError
    )
    if full and not of_the_device:
        return {"memory": "out"}
    if isinstance(error, MeadowError):
        return {
            # What this process has left of its device is unknown, or nothing.
            "last": full or isinstance(error, DeviceLost),
            "kind": type(error).__name__,
            "code": error.code,
            "message": error.message,
            "hint": error.hint,
            "told": dict(error.told),
        }
    return {"crossed": across(error)}


def _is_out_of_memory(error: BaseException | None) -> bool:
    """Return whether an error, or the one that it was raised in place of, is for want of memory."""
    if error is None:
        return False
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    said = str(error)
    own = isinstance(error, RuntimeError | OSError) and any(words in said for words in NO_MEMORY)
    return own or _is_out_of_memory(error.__context__)


if __name__ == "__main__":
    sys.exit(main())

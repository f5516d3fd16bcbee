"""How strictly a device gives the same bits for the same work (`trainer.deterministic`).

true    torch refuses an operation that has no deterministic form
auto    on a GPU what has such a form uses it, and the names of other operations are noted;
        elsewhere as true
false   the fastest: cuDNN tries its algorithms out, and so does torch's compiler
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch

from client.device_failures import undeterministic
from conf.schema import TrainerConf

# torch makes modules of properties of them, which mypy can't see.
_memory: Any = torch.utils.deterministic
_cudnn: Any = torch.backends.cudnn

_MODES: Final = {"true": "error", "auto": "warn", "false": "default"}
_MESSAGE: Final = r"(?s).*(does not have a deterministic implementation|CUBLAS_WORKSPACE_CONFIG)"


@contextmanager
def graded(device: torch.device, conf: TrainerConf) -> Iterator[set[str]]:
    """Compute as strictly as the trainer says; all is put back to what it was before.

    Yields a set that comes to hold the operations that do not give the same bits each time. With
    `true` torch raises RuntimeError for such a one.
    """
    cuda = device.type == "cuda"
    grade = "true" if conf.deterministic == "auto" and not cuda else conf.deterministic
    mode = torch.get_deterministic_debug_mode()
    # A help in debugging that costs time.
    filled = _memory.fill_uninitialized_memory
    _memory.fill_uninitialized_memory = False
    try:
        _be(grade, compiled=conf.compile != "off")
        if not cuda:
            yield set()
            return
        with _searching(grade == "false"), _noting(grade == "auto") as operations:
            if grade != "false":
                # What torch asks for; 24 MB of the GPU.
                os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            yield operations
    finally:
        torch.set_deterministic_debug_mode(mode)
        _memory.fill_uninitialized_memory = filled


def _be(grade: str, *, compiled: bool) -> None:
    """Tell torch the grade.

    torch.use_deterministic_algorithms says so to torch's compiler as well, and imports it for that:
    as many CPU seconds as torch itself, in every worker. Only a compiled model needs it.
    """
    if compiled:
        torch.use_deterministic_algorithms(grade != "false", warn_only=grade == "auto")
    else:
        torch.set_deterministic_debug_mode(_MODES[grade])


@contextmanager
def _searching(search: bool) -> Iterator[None]:
    """Let cuDNN try out its algorithms for each shape, or not."""
    before = _cudnn.benchmark
    _cudnn.benchmark = search
    try:
        yield
    finally:
        _cudnn.benchmark = before


@contextmanager
def _noting(wanted: bool) -> Iterator[set[str]]:
    """Take torch's warnings of such operations as their names; every other warning goes its way."""
    operations: set[str] = set()
    if not wanted:
        yield operations
        return
    with warnings.catch_warnings():
        # Once for each operation and place, and not at each step.
        warnings.filterwarnings("default", message=_MESSAGE)
        shown = warnings.showwarning

        def note(message: Warning | str, *where: Any, **more: Any) -> None:
            operation = undeterministic(str(message))
            if operation is None:
                shown(message, *where, **more)
            else:
                operations.add(operation)

        warnings.showwarning = note
        yield operations

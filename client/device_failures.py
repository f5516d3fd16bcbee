"""What a failure of a device means: memory that is full, a context that is lost, an operation that
gives other bits each time.

    MDW-225 out of memory   MDW-226 a lost context   MDW-227 an operation without deterministic form

Full memory is worth a second try, after all that can be spared has left the device. A lost context
(a device assert, an illegal access, a broken memory) fails every later call of the process, even
one that frees memory: nothing here touches it again, and the process has to end (`DeviceLost`).
"""

from __future__ import annotations

import gc
import re
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeVar

import torch

from conf.errors import DataError

T = TypeVar("T")

_FULL: Final = ("out of memory", "_ALLOC_FAILED", "can't allocate memory")
"""In the texts of torch, cuBLAS, cuDNN and the CPU's allocator where memory is full."""
_LOST: Final = ("CUDA error", "HIP error")
_NOT_DETERMINISTIC: Final = re.compile(r"(\S+) does not have a deterministic implementation")
_NO_WORKSPACE: Final = "CUBLAS_WORKSPACE_CONFIG"

# Only since torch 2.8; the text says it as well.
_ACCELERATOR_ERROR: Final = getattr(torch, "AcceleratorError", None)


LOST_STATUS: Final = 21
"""With which a process ends that has answered, and can't use its device any more."""


class DeviceLost(DataError):
    """A device that this process can't use any more: answer with this, then end the process."""

    exit_status = LOST_STATUS


_spared: list[Callable[[torch.device], None]] = []


def on_full_memory(free: Callable[[torch.device], None]) -> Callable[[torch.device], None]:
    """Have `free` called with the device before a second try; returns it, as a decorator does."""
    _spared.append(free)
    return free


def is_full(error: BaseException) -> bool:
    """Return whether an error says that memory is full, on the device or on the host."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _FULL)


def is_lost(error: BaseException) -> bool:
    """Return whether an error says that no later call of this process can reach the device."""
    if is_full(error):
        return False
    if _ACCELERATOR_ERROR is not None and isinstance(error, _ACCELERATOR_ERROR):
        return True
    return isinstance(error, RuntimeError) and str(error).startswith(_LOST)


def undeterministic(text: str) -> str | None:
    """Return the operation of which torch says that it has no deterministic form, or None."""
    match = _NOT_DETERMINISTIC.search(text)
    if match is not None:
        return match[1]
    return "cuBLAS" if _NO_WORKSPACE in text else None


def with_room(
    device: torch.device, action: Callable[[], T], undo: Callable[[], None] | None = None
) -> T:
    """Return what `action` gives; where memory is full, `undo` what it has done and try once more."""
    try:
        return action()
    except RuntimeError as error:
        if not is_full(error):
            raise
    # Outside of `except`: the error's frames hold what the action had made.
    make_room(device)
    if undo is not None:
        undo()
    return action()


def make_room(device: torch.device) -> None:
    """Free what a device holds for speed alone: sets of examples, and torch's own reserve."""
    for free in _spared:
        free(device)
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


@contextmanager
def told(batch_size: int | None = None) -> Iterator[None]:
    """Say a device's failure as an error with a code; `batch_size` is that of the work inside, where
    it is of batches.

    Raises DataError: MDW-225, MDW-227, and DeviceLost MDW-226.
    """
    try:
        yield
    except RuntimeError as error:
        if is_full(error):
            # Its frames hold what did not fit, for as long as somebody holds the error.
            traceback.clear_frames(error.__traceback__)
            raise _full(batch_size) from error
        if is_lost(error):
            raise _lost(str(error)) from error
        operation = undeterministic(str(error))
        if operation is None:
            raise
        raise _not_deterministic(operation) from error


def _full(batch_size: int | None) -> DataError:
    if batch_size is None:
        what = "The model needs more memory than the device has."
        hint = "Look for other processes on the device (nvidia-smi), or take a smaller model."
        return DataError("MDW-225", what, hint)
    half = max(batch_size // 2, 1)
    what = f"A batch of {batch_size} needs more memory than the device has."
    hint = (
        f"Set federation.silos.NAME.batch_size_at_most={half} for this silo, or"
        " trainer.batch_size with trainer.accumulate for all."
    )
    if batch_size == 1:
        hint = "Take a smaller model or smaller examples, or trainer.precision=bf16."
    return DataError("MDW-225", what, hint, {"batch_size": batch_size, "batch_size_at_most": half})


def _lost(text: str) -> DeviceLost:
    first = text.splitlines()[0][:160] if text else "no text"
    return DeviceLost(
        "MDW-226",
        f"The device can't be used by this process any more: {first}.",
        "The process ends, and another takes its place. Where it comes again, look for a label"
        " outside of the classes or an index outside of a table, and at the device's own errors"
        " (nvidia-smi -q).",
    )


def _not_deterministic(operation: str) -> DataError:
    return DataError(
        "MDW-227",
        f"trainer.deterministic=true: {operation} has no form that gives the same bits each time"
        " on this device.",
        "Set trainer.deterministic=auto, which trains and records the operation, or use another"
        " operation in the model or loss.",
        {"operation": re.sub(r"[^A-Za-z0-9_.:]", "", operation)[:80]},
    )

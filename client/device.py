"""Where a silo computes: which device, in which precision, and how strictly the same each time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from conf.errors import ConfigError
from conf.schema import TrainerConf

# torch makes a module of properties of it, which mypy can't see.
_memory: Any = torch.utils.deterministic

PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""The half types that autocast may compute in; `fp32` computes as it stores."""


def choose(name: str) -> torch.device:
    """Return the device called `name`; `auto` takes a CUDA GPU, then Apple's, then the CPU.

    Raises ConfigError MDW-104 where this machine does not have it.
    """
    if name == "auto":
        name = _best()
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as e:
        reason = str(e).splitlines()[0].rstrip(".")
        what = f"The device '{name}' can't be used here: {reason}."
        raise ConfigError("MDW-104", what, "Use auto or cpu.") from e
    return device


def _best() -> str:
    if torch.cuda.is_available():
        return "cuda"
    if torch.backends.mps.is_available():
        return "mps"
    return "cpu"


def device_of(model: nn.Module) -> torch.device:
    """Return the device that a model is on."""
    return next(model.parameters()).device


def autocast(device: torch.device, conf: TrainerConf) -> AbstractContextManager[object]:
    """Return the context in which a model computes in the trainer's precision, batch by batch."""
    half = PRECISIONS.get(conf.precision)
    if half is None:
        return nullcontext()
    return torch.autocast(device.type, dtype=half)


def full_precision(tensor: Tensor) -> Tensor:
    """Return a float32 form of what a model gave: losses are taken in it, whatever it computed in."""
    return tensor.float() if tensor.is_floating_point() else tensor


@contextmanager
def reproducible(device: torch.device, seed: int, conf: TrainerConf) -> Iterator[None]:
    """Draw everything (dropout, augmentation) from `seed`; torch's random state is left as it was.

    With `trainer.deterministic=true` torch raises RuntimeError for an operation that has no
    deterministic form; with `auto`, which only a GPU is left with, it warns.
    """
    cuda = device.type == "cuda"
    if cuda and conf.deterministic != "false":
        # What torch asks for; 24 MB of the GPU.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    deterministic_before = torch.get_deterministic_debug_mode()
    fill_before = _memory.fill_uninitialized_memory
    with torch.random.fork_rng(devices=[device] if cuda else []):
        _seed(device, seed)
        _be_deterministic(conf)
        # A help in debugging that costs time.
        _memory.fill_uninitialized_memory = False
        try:
            yield
        finally:
            torch.set_deterministic_debug_mode(deterministic_before)
            _memory.fill_uninitialized_memory = fill_before


def _be_deterministic(conf: TrainerConf) -> None:
    """Let torch refuse what has no deterministic form, or not.

    torch.use_deterministic_algorithms says so to torch's compiler as well, and imports it for that:
    as many CPU seconds as torch itself, in every worker. Only a compiled model needs it.
    """
    if conf.compile != "off":
        torch.use_deterministic_algorithms(
            conf.deterministic != "false", warn_only=conf.deterministic == "auto"
        )
    else:
        modes = {"true": "error", "auto": "warn", "false": "default"}
        torch.set_deterministic_debug_mode(modes[conf.deterministic])


def _seed(device: torch.device, seed: int) -> None:
    """Seed the generators that draw on this device, with the numbers that `torch.manual_seed` gives.

    That one also seeds every other device of the machine; where they are not there it formats a
    stack trace for each, which takes longer than a step of a small model.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)

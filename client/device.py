"""Where a silo computes: which device, in which precision, and how strictly the same each time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace

import torch
from torch import Tensor, nn

from client import placement
from client.determinism import graded
from client.randomness import seeded
from client.tf32 import tf32
from conf.errors import ConfigError
from conf.schema import TrainerConf

PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""The half types that autocast may compute in; `fp32` and `tf32` compute as they store."""


def choose(name: str) -> torch.device:
    """Return the device called `name`; `auto` takes a CUDA GPU, then Apple's, then the CPU.

    A process that was given one of several GPUs (`client.placement`) takes that one for `auto` and
    `cuda`. What a CUDA process does from then on is on its GPU: elsewhere it would make a context
    for what it pins. Raises ConfigError MDW-104 where this machine does not have it.
    """
    if name == "auto":
        name = _best()
    if name == "cuda":
        name = f"cuda:{_own_gpu()}"
    try:
        device = torch.device(name)
        if device.type == "cuda":
            torch.cuda.set_device(device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as e:
        reason = str(e).splitlines()[0].rstrip(".")
        what = f"The device '{name}' can't be used here: {reason}."
        raise ConfigError("MDW-104", what, "Use auto or cpu.") from e
    return device


def _own_gpu() -> int:
    place = placement.given()
    return place.gpu if place is not None and place.gpu is not None else 0


def _best() -> str:
    place = placement.given()
    if place is not None and place.gpu is None:
        return "cpu"
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
def reproducible(
    device: torch.device, seed: int, conf: TrainerConf, *, all_generators: bool = True
) -> Iterator[set[str]]:
    """Compute as the trainer says, and draw everything (dropout, augmentation) from `seed`.

    Precision of products, strictness and every generator are left as they were before; with
    `all_generators` numpy's and Python's are seeded beside torch's. Yields the
    set of operations that do not give the same bits each time (`client.determinism`).
    """
    # Half types stand for fp32 with fewer bits anyway.
    allowed = conf.precision != "fp32"
    products = tf32(device, allowed=allowed) if device.type == "cuda" else nullcontext()
    draws = seeded(device, seed, all_generators=all_generators)
    with draws, products, graded(device, conf) as operations:
        yield operations


def for_scores(conf: TrainerConf, device: torch.device) -> TrainerConf:
    """Return the trainer with the precision of an evaluation (`trainer.eval_precision`): what is
    scored is the model that travels, and that one is fp32.
    """
    precision = conf.eval_precision
    if precision == "train":
        return conf
    if device.type != "cuda" and conf.precision not in PRECISIONS:
        # Whatever it is called there, it is fp32.
        return conf
    if precision == "auto":
        precision = "tf32" if device.type == "cuda" and conf.precision != "fp32" else "fp32"
    return conf if precision == conf.precision else replace(conf, precision=precision)

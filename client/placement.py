"""Which of this machine's GPUs a process may use: what it was given by whoever started it, and what
is refused where that is not there.

Counting makes no CUDA context: torch asks NVIDIA's management library, which a process that trains
nothing may do, and so may one from which others are forked.

    MDW-344 a GPU that was given and is not there     MDW-345 more GPUs than the machine has
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import torch

from client import driver
from conf.errors import ConfigError, SiloError
from conf.schema import Silo

VARIABLE: Final = "MEADOW_GPU"
"""Environment of a process: `INDEX/SHARERS`, the GPU that it is to use and how many processes use
that one, or `none`, where none is meant.
"""
MASK: Final = "CUDA_VISIBLE_DEVICES"
NONE: Final = "none"
NUMBERS: Final = re.compile(r"\d{1,3}(,\d{1,3})*")
_WRITTEN: Final = re.compile(r"(\d{1,3})/(\d{1,4})")


@dataclass(frozen=True)
class Placement:
    """What a process was given."""

    gpu: int | None
    """The index among the GPUs that it sees; None where it was to have none."""
    sharers: int = 1
    """How many processes use that GPU, this one among them."""

    def __str__(self) -> str:
        return NONE if self.gpu is None else f"{self.gpu}/{self.sharers}"


def given() -> Placement | None:
    """Return what this process was given, None where nobody said: it then uses what it finds."""
    text = os.environ.get(VARIABLE, "")
    if text == NONE:
        return Placement(None)
    found = _WRITTEN.fullmatch(text)
    return Placement(int(found[1]), max(1, int(found[2]))) if found else None


def visible() -> int:
    """Return how many CUDA GPUs this process may see, without making a context."""
    return torch.cuda.device_count()


def shared(gpus: int | None) -> int:
    """Return how many GPUs the processes of a simulation share: `simulation.gpus`, or what is
    visible.

    Raises SiloError MDW-345 where there are fewer than were asked for.
    """
    there = visible()
    if gpus is None:
        return there
    if gpus > there:
        raise SiloError(
            "MDW-345",
            f"simulation.gpus={gpus} asks for more than there are: this process sees {there}.",
            f"Set it to {there} or less, or leave it out; {MASK} hides GPUs, and a build of torch"
            " without CUDA sees none.",
        )
    return gpus


def placement(process: int, processes: int, gpus: int, *, meant: bool) -> Placement | None:
    """Return what one of the `processes` that train is given of `gpus` GPUs: each the next one.

    Without GPUs it is None, or that none was `meant`.
    """
    if gpus == 0:
        return Placement(None) if meant else None
    gpu = process % gpus
    return Placement(gpu, len(range(gpu, max(processes, process + 1), gpus)))


def environment(place: Placement | None) -> dict[str, str]:
    """Return the variables that tell a process what it was given."""
    if place is None:
        return {}
    told = {VARIABLE: str(place)}
    if place.gpu is None:
        # For code of others too, which asks CUDA and not us.
        told[MASK] = ""
    return told


@contextmanager
def told_here(place: Placement | None) -> Iterator[None]:
    """Let this process be one that was given something, for a while."""
    told = environment(place)
    before = {name: os.environ.get(name) for name in told}
    os.environ.update(told)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def check_there(silo: Silo, device: str, environment: Mapping[str, str] = os.environ) -> None:
    """Raise SiloError MDW-344 where a silo was given a GPU and would train without, or not at all:
    asked before its data is read.

    `device` is what the silo or the run names. A silo that is told to train elsewhere, or whose
    process was started with none, is content.
    """
    place = given()
    if device.partition(":")[0] not in ("auto", "cuda") or (place and place.gpu is None):
        return
    wanted = silo.gpus > 0 or place is not None
    if not wanted or torch.cuda.is_available():
        return
    why = _why_not(environment)
    raise SiloError(
        "MDW-344",
        f"{silo.name} was given a GPU, and this process finds none: {why}.",
        "Look at its machine, or let its owner set device: cpu; in a simulation, simulation.gpus=0"
        " trains on the CPU. Clients of flwr run get GPUs by Flower's"
        " --federation-config 'client-resources-num-gpus=0.25'.",
        {"found": why},
    )


def _why_not(environment: Mapping[str, str]) -> str:
    """Return in words of our own why CUDA finds no GPU."""
    cuda = driver.cuda_of_torch()
    if cuda is None:
        return "torch is a build without CUDA"
    has = driver.found()
    if has is None:
        return "there is no driver of NVIDIA's"
    if has.cuda[0] < int(cuda.partition(".")[0]):
        return f"its driver runs CUDA {has.cuda[0]}.{has.cuda[1]}, and torch needs {cuda}"
    if environment.get(MASK) == "":
        return f"{MASK} is empty"
    return "none is visible to it"


def masked(device: torch.device) -> str:
    """Return which of the machine's GPUs a device is, in words that follow its name, where this
    process sees but some of them: each of Ray's actors calls its own the first.
    """
    mask = os.environ.get(MASK, "")
    if device.type != "cuda" or not NUMBERS.fullmatch(mask):
        return ""
    seen = mask.split(",")
    index = device.index or 0
    return f" (GPU {seen[index]})" if index < len(seen) else ""


def check_named(device: str) -> None:
    """Raise ConfigError MDW-104 where a run names a CUDA device that this machine has not got,
    without making a context here.
    """
    kind, _, index = device.partition(":")
    if kind != "cuda":
        return
    there = visible()
    if int(index or 0) < there:
        return
    seen = f"this machine has {there} CUDA GPUs" if there else "no CUDA GPU is visible here"
    raise ConfigError(
        "MDW-104", f"The device '{device}' can't be used: {seen}.", "Use auto or cpu."
    )

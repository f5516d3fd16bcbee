"""Every draw comes from a seed, whichever generator it is taken from: torch's on the host and on the
device, numpy's global one, Python's.

Generators that somebody's code makes for itself (`numpy.random.default_rng()`) are its own affair.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import nn

# numpy does not list these two among its names, which mypy holds against them.
_numpy: Any = np.random
_OF_NUMPY: Final = 2**32
_OF_TORCH: Final = 2**63

_DRAW_FROM_TORCH: Final = ("torch.", "torchvision.", "client.", "strategies.")
"""Beginnings of the modules of classes that draw from torch alone."""
_alone: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


@contextmanager
def seeded(device: torch.device, seed: int, *, all_generators: bool = True) -> Iterator[None]:
    """Draw everything from `seed`; every generator is left as it was.

    Not `all_generators`: torch's alone, where nothing else is drawn from (`torch_alone`).
    """
    there = _of_device(device)
    of_device = None if there is None else there.get_state()
    of_torch = torch.default_generator.get_state()
    beside = _put_aside() if all_generators else None
    try:
        _seed_torch(device, there, seed)
        if beside is not None:
            _seed_others(seed)
        yield
    finally:
        if beside is not None:
            _put_back(beside)
        torch.default_generator.set_state(of_torch)
        if there is not None and of_device is not None:
            there.set_state(of_device)


def torch_alone(model: nn.Module, *others: object) -> bool:
    """Return whether a model and what else computes with it draw from torch alone: all of it is
    torch's own or of this tree. Seeding the other generators takes as long as a step of a tiny model.
    """
    if not all(type(one).__module__.startswith(_DRAW_FROM_TORCH) for one in others):
        return False
    known = _alone.get(model)
    if known is None:
        parts = model.modules()
        known = all(type(part).__module__.startswith(_DRAW_FROM_TORCH) for part in parts)
        _alone[model] = known
    return known


@contextmanager
def aside() -> Iterator[None]:
    """Leave every generator of the host as it was, whatever is drawn inside."""
    of_torch = torch.default_generator.get_state()
    beside = _put_aside()
    try:
        yield
    finally:
        _put_back(beside)
        torch.default_generator.set_state(of_torch)


def seed_all(seed: int) -> None:
    """Seed the generators of the host that a set of examples may draw from."""
    torch.default_generator.manual_seed(seed % _OF_TORCH)
    _seed_others(seed)


def mixed(*numbers: int) -> int:
    """Return a seed made of several numbers: others for any that differ (splitmix64, Steele et al.
    2014).
    """
    mask = 2**64 - 1
    state = 0
    for number in numbers:
        state = (state + number + 0x9E3779B97F4A7C15) & mask
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & mask
        state ^= state >> 31
    return state % _OF_TORCH


_spare: list[Any] = []
"""Generators for numpy's place: making one takes longer than a step of a small model."""


def _put_aside() -> tuple[Any, ...]:
    """Return the states of Python's generator and of numpy's, with another one in numpy's place: to
    copy its state takes a tenth of a millisecond.
    """
    of_numpy = _numpy.get_bit_generator()
    own = _spare.pop() if _spare else np.random.MT19937(0)
    _numpy.set_bit_generator(own)
    return random.getstate(), of_numpy, own


def _put_back(before: tuple[Any, ...]) -> None:
    of_python, of_numpy, own = before
    random.setstate(of_python)
    _numpy.set_bit_generator(of_numpy)
    _spare.append(own)


def _of_device(device: torch.device) -> torch.Generator | None:
    """Return the generator of a GPU, and None for any other device."""
    if device.type != "cuda":
        return None
    # There are none before torch has looked for GPUs.
    torch.cuda.init()
    index = torch.cuda.current_device() if device.index is None else device.index
    return torch.cuda.default_generators[index]


def _seed_others(seed: int) -> None:
    np.random.seed(seed % _OF_NUMPY)
    random.seed(seed)


def _seed_torch(device: torch.device, there: torch.Generator | None, seed: int) -> None:
    """Seed torch's generators that draw on this device, with the numbers of `torch.manual_seed`.

    That one also seeds every other device of the machine; where they are not there it formats a
    stack trace for each, which takes longer than a step of a small model.
    """
    torch.default_generator.manual_seed(seed)
    if there is not None:
        there.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)

"""Every draw comes from a seed, whichever generator it is taken from: torch's on the host and on the
device, numpy's global one, Python's.

Generators that somebody's code makes for itself (`numpy.random.default_rng()`) are its own affair.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
import torch

# numpy does not list these two among its names, which mypy holds against them.
_numpy: Any = np.random
_OF_NUMPY: Final = 2**32
_OF_TORCH: Final = 2**63


@contextmanager
def seeded(device: torch.device, seed: int) -> Iterator[None]:
    """Draw everything from `seed`; every generator is left as it was."""
    cuda = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if cuda else []), _aside_from_torch():
        _seed_torch(device, seed)
        _seed_others(seed)
        yield


@contextmanager
def aside() -> Iterator[None]:
    """Leave every generator of the host as it was, whatever is drawn inside."""
    state = torch.default_generator.get_state()
    try:
        with _aside_from_torch():
            yield
    finally:
        torch.default_generator.set_state(state)


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


@contextmanager
def _aside_from_torch() -> Iterator[None]:
    # Another generator in its place: to copy numpy's state takes a tenth of a millisecond.
    of_numpy = _numpy.get_bit_generator()
    own = _spare.pop() if _spare else np.random.MT19937(0)
    of_python = random.getstate()
    _numpy.set_bit_generator(own)
    try:
        yield
    finally:
        random.setstate(of_python)
        _numpy.set_bit_generator(of_numpy)
        _spare.append(own)


def _seed_others(seed: int) -> None:
    np.random.seed(seed % _OF_NUMPY)
    random.seed(seed)


def _seed_torch(device: torch.device, seed: int) -> None:
    """Seed torch's generators that draw on this device, with the numbers of `torch.manual_seed`.

    That one also seeds every other device of the machine; where they are not there it formats a
    stack trace for each, which takes longer than a step of a small model.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)

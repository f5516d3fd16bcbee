"""Where the randomness of a private round comes from: the operating system, drawn anew each time and
kept nowhere.

torch seeds its generator on a CPU, a Mersenne twister of 624 words, from 32 bits of a seed: so few
that somebody with time could try all of them and take the noise off again. So all of its state is
drawn here. On a GPU its generator (Philox) takes the 63 bits of the seed.
"""

from __future__ import annotations

import secrets
from typing import Final

import torch

from conf.seeds import seed_for

WORDS: Final = 624
"""Of the state of a Mersenne twister (Matsumoto & Nishimura 1998), 32 bits each."""
_FIRST: Final = 24
"""Bytes of torch's state before these: its seed, two flags, and which word is next."""
_WIDTH: Final = 8
"""Bytes in which torch keeps a word."""


class Seeds:
    """The randomness of one round of one silo; with a `test_seed` it is that seed's."""

    def __init__(self, test_seed: int | None, silo: str, round: int) -> None:
        self._test_seed = test_seed
        self._silo = silo
        self._round = round

    def drawn(self, what: str) -> int:
        """Return 63 bits for one use."""
        if self._test_seed is None:
            return secrets.randbits(63)
        return seed_for(self._test_seed, self._silo, self._round, what)

    def generator(self, what: str, device: torch.device | str = "cpu") -> torch.Generator:
        """Return a generator for one use."""
        generator = torch.Generator(device).manual_seed(self.drawn(what))
        if self._test_seed is None and torch.device(device).type == "cpu":
            generator.set_state(_filled(generator.get_state()))
        return generator


def _filled(state: torch.Tensor) -> torch.Tensor:
    """Return a generator's state with all of its words drawn; the next number makes it new ones."""
    drawn = torch.frombuffer(bytearray(secrets.token_bytes(4 * WORDS)), dtype=torch.uint8)
    filled = state.clone()
    words = filled[_FIRST : _FIRST + _WIDTH * WORDS].view(WORDS, _WIDTH)
    words[:, :4] = drawn.view(WORDS, 4)
    words[:, 4:] = 0
    return filled

"""How the updates of a run travel: which of the model's arrays in which form.

Parameters that are trained are encoded, and travel in the record `change`. Buffers (counters,
running means and variances) travel as they are, in the record `arrays`: they are few, and a variance
that is off by a rounding may be negative. Parameters that are frozen do not travel, since both sides
have them, nor does what the silo keeps.

Both sides make the same form of the run's configuration, so that nothing has to say what it is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from conf.schema import RunScope
from conf.seeds import seed_for
from strategies.compression import codec_of
from strategies.compression.codec import Arrays, Codec, Encoded, Row, Seeds, Shapes, parts, size_of
from strategies.silo_half import belongs
from strategies.wire.half_types import FLOATS

PHASE: Final = "compression"
"""What draws are seeded with (`conf.seeds`)."""


@dataclass(frozen=True)
class Form:
    """The form of a run's updates, the same at both sides."""

    codec: Codec | None
    """None: only what is frozen is left out."""
    trained: Collection[str]
    frozen: Collection[str]
    keeps: Sequence[str]
    """Beginnings of the names of what the silos keep."""
    seed: int
    """The run's."""

    def leaving(self, names: Collection[str]) -> list[str]:
        """Return those of a model's arrays that an update is of."""
        return [name for name in names if not belongs(name, self.keeps)]

    def coded(self, shapes: Mapping[str, tuple[str, tuple[int, ...]]]) -> Shapes:
        """Return those of an update's arrays that are encoded, in order; `shapes` says the type and
        shape of each.
        """
        if self.codec is None:
            return {}
        return {
            name: shapes[name][1]
            for name in sorted(shapes)
            if name in self.trained and shapes[name][0] in FLOATS
        }

    def seeds(self, silo: str, round: int) -> Seeds:
        """Return what a silo draws from in a round."""
        return Seeds(seed_for(self.seed, silo, round, PHASE), self.shared(round))

    def shared(self, round: int) -> int:
        """Return the seed that all silos of a round have in common."""
        return seed_for(self.seed, "", round, PHASE)

    def encoded(
        self, new: Arrays, sent: Arrays, coded: Shapes, seeds: Seeds, memory: Arrays
    ) -> Encoded:
        """Return the change of the coded arrays as it travels; of halves their numbers are given.

        Raises ValueError where it is not finite, or the codec can't hold it.
        """
        assert self.codec is not None
        row = _change(new, sent, coded)
        if row.size and not (np.isfinite(row.max()) and np.isfinite(row.min())):
            raise ValueError("the trained model holds values that are not finite")
        return self.codec.encode(row, coded, seeds, memory)

    def decoded(
        self, arrays: Arrays, sent: Arrays, coded: Shapes, round: int
    ) -> Iterator[tuple[str, NDArray[Any]]]:
        """Yield the new values of each coded array, flat, each in memory of its own; those of halves
        are numbers, as `sent` gives them.

        Whether they are finite is not looked at. Raises ValueError for what can't be decoded.
        """
        assert self.codec is not None
        with np.errstate(over="ignore", invalid="ignore"):
            for name, change in self.codec.decode(arrays, coded, self.shared(round)):
                old = sent[name].reshape(-1)
                if old.dtype == change.dtype:
                    change += old
                    yield name, change
                else:
                    yield name, (old + change).astype(old.dtype)


def form_of(
    scope: RunScope, trained: Collection[str], frozen: Collection[str], keeps: Sequence[str]
) -> Form | None:
    """Return the form of a run's updates; None where they travel as they are, all of them."""
    codec = codec_of(scope.compression)
    if codec is None and not frozen:
        return None
    return Form(codec, frozenset(trained), frozenset(frozen), tuple(keeps), scope.run.seed)


def _change(new: Arrays, sent: Arrays, coded: Shapes) -> Row:
    row = np.empty(size_of(coded), np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        for name, at in parts(coded):
            old = sent[name].reshape(-1)
            np.subtract(new[name].reshape(-1), old, out=row[at], casting="same_kind")
    return row

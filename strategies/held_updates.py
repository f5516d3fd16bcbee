"""A round's updates as they arrive: each compared with the model, then written to disk and let go.

Its arrays of floats are held (`strategies.spill`). Counters, which are integers, have no rule that
is worth the name: the largest is kept, as in a mean (`strategies.average`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord
from numpy.typing import NDArray

from conf.errors import WireError
from strategies.fixed_point import LIMIT
from strategies.metric_means import MetricMeans
from strategies.spill import FloatLayout, Spill
from strategies.wire import protocol
from strategies.wire.half_types import FLOATS, Numbers
from strategies.wire.objects import DTYPES

R = TypeVar("R")

Layout = Mapping[str, tuple[str, tuple[int, ...]]]
_COUNTS: Final = "iub"
_COUNTED_BY: Final = (protocol.NUM_EXAMPLES, protocol.SIZE)


class HeldUpdates:
    """What has arrived of a round. `sent` is the model without what the silos keep, where it is
    known; otherwise the first update says what all of them must be.
    """

    def __init__(self, folder: Path, sent: ArrayRecord, weighting: str) -> None:
        """Raises FileFault where nothing can be held in the folder."""
        self.metrics = MetricMeans()
        self.counters: dict[str, NDArray[Any]] = {}
        """The largest values so far of each array of integers."""
        self.weights: dict[str, int] = {}
        """What each update weighs, by its silo's name."""
        self._folder = folder
        self._weighting = weighting
        self._layout: Layout = {}
        self._spill: Spill | None = None
        if sent:
            self._begin(layout_of(sent))

    @property
    def spill(self) -> Spill:
        """The updates on disk; there is at least one."""
        assert self._spill is not None
        return self._spill

    def take(self, name: str, reply: Message, known: Mapping[str, Mapping[str, float]]) -> None:
        """Hold a reply under its silo's name, or raise and hold nothing of it.

        `known` says how large its arrays are, by record, where somebody has looked: they then are
        finite. Raises WireError: MDW-660 other arrays than the model's, MDW-661 not finite, MDW-662
        out of range, MDW-663 its weight is not positive, MDW-665 other records; FileFault.
        """
        values = dict(_only(protocol.records(reply.content, MetricRecord)))
        weight = _weight_in(values, self._weighting)
        records = protocol.records(reply.content, ArrayRecord)
        record = _only(records)
        layout = layout_of(record)
        if not self._layout:
            self._begin(layout)
        _compare(layout, self._layout)
        arrays = dict(Numbers(record))
        if not known:
            _check_finite(arrays)
        self.spill.add(name, arrays)
        for at, array in arrays.items():
            if array.dtype.kind in _COUNTS:
                before = self.counters.get(at, array)
                self.counters[at] = np.asarray(np.maximum(before, array))
        self.weights[name] = weight
        numbers = {key: value for key, value in values.items() if key not in _COUNTED_BY}
        self.metrics.add(numbers, weight)

    def _begin(self, layout: Layout) -> None:
        self._layout = layout
        self._spill = Spill(self._folder, FloatLayout(layout))


def layout_of(record: ArrayRecord) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return the type and shape of each array; raises WireError MDW-660 for one that has no rule."""
    layout = {name: (array.dtype, tuple(array.shape)) for name, array in record.items()}
    for name, (dtype, _) in layout.items():
        if dtype not in FLOATS and (dtype not in DTYPES or DTYPES[dtype].kind not in _COUNTS):
            raise _mismatch(name, f"its type {dtype:.20} can't be aggregated")
    return layout


def _compare(found: Layout, wanted: Layout) -> None:
    for name in sorted(found.keys() ^ wanted.keys()):
        raise _mismatch(name, "it is missing" if name in wanted else "the model has no such array")
    for name, one in wanted.items():
        if found[name] != one:
            raise _mismatch(name, f"it is {found[name]} where the model has {one}")


def _check_finite(arrays: Mapping[str, NDArray[Any]]) -> None:
    for name, array in arrays.items():
        if array.dtype.kind in _COUNTS or not array.size:
            continue
        # Two passes without an array of truth values; a NaN comes out of both.
        largest = max(-float(array.min()), float(array.max()))
        if not math.isfinite(largest):
            what = f"{name!r} of an update holds values that are not finite."
            raise WireError("MDW-661", what, "Lower the learning rate.")
        if largest > LIMIT:
            # Squares of distances between such values would leave the range of a float.
            what = f"{name!r} of an update reaches {largest:.3g}, more than {LIMIT:.3g}."
            raise WireError("MDW-662", what, "The model diverges: lower the learning rate.")


def _weight_in(values: Mapping[str, object], weighting: str) -> int:
    weight = protocol.weight_in(values, weighting)
    if not isinstance(weight, int):
        what = f"A reply's weight by {weighting} is {weight!r:.40}."
        raise WireError("MDW-665", what, "It must be a whole number.")
    if weight < 1:
        what = f"An update's weight is {weight}."
        raise WireError("MDW-663", what, "It must be a positive number of examples.")
    return weight


def _only(records: Mapping[str, R]) -> R:
    if len(records) != 1:
        raise WireError(
            "MDW-665",
            f"A reply has {len(records)} records of a kind.",
            "It must have exactly one: the model's arrays, and its metrics.",
        )
    return next(iter(records.values()))


def _mismatch(name: str, why: str) -> WireError:
    return WireError(
        "MDW-660",
        f"{name!r:.80} of an update does not fit: {why}.",
        "All silos must train the same model.",
    )

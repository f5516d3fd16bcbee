"""The model that a round's updates are measured from, and what is measured of each.

One function does it, whoever calls it: the server, for what came over a wire, or the worker of the
pool that has just made the update (`server.engines.measuring`). The server then has numbers to judge
and no values to read. Only an engine hands such numbers over (`SiloGrid.measured`), beside the reply
and never in it: nothing that a silo sends is taken for them.

    MDW-611 names of the arrays     MDW-612, 613 layout of an array     MDW-614 not finite
    MDW-674 names of an algorithm's own arrays
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from flwr.app import ArrayRecord

from server.round.array_layout import ArrayLayout, Reference, difference_of
from server.round.decoding import Decoding
from server.round.judgement import AdmissionFault
from server.round.measure import measure
from server.round.sketch import Sketch, Sketcher
from strategies.average import is_folded_as_change
from strategies.wire import protocol
from strategies.wire.half_types import as_type

Values = dict[str, dict[str, np.ndarray]]
"""The elements of an update's arrays, by record and array, once their layouts are known to fit."""
Largest = Mapping[str, Mapping[str, float]]
"""By record and array: the largest magnitude of its values, or of its changes where those are
averaged.
"""
Layouts = Mapping[str, Mapping[str, ArrayLayout]]
"""By record and array: what an algorithm's own records must be."""


@dataclass(frozen=True)
class Measured:
    """Of one update: the sum of its squared differences to the model, how large it is, the sketch of
    its change (of which seed: `sketched`), and the digest of its arrays.
    """

    squares: float
    largest: Largest
    sketch: Sketch | None = field(default=None, repr=False)
    sketched: int | None = None
    digest: str = ""


class Known(NamedTuple):
    """What an engine's own worker measured of a reply, and the model that its silo had been sent."""

    measured: Measured
    sent: ArrayRecord


class SentModel:
    """The model as it was sent, without what the silos keep."""

    def __init__(self, model: ArrayRecord) -> None:
        self._model = model
        self._references = {name: Reference.of(array) for name, array in model.items()}
        self.as_change = {
            name
            for name, one in self._references.items()
            if is_folded_as_change(as_type(one.values, one.dtype))
        }
        """Names of the arrays whose changes are averaged, since their values are too large."""

    @property
    def names(self) -> Collection[str]:
        """Of its arrays."""
        return self._references.keys()

    def only(self, names: Collection[str]) -> SentModel:
        """Return the model with these of its arrays alone."""
        if set(names) == self._references.keys():
            return self
        part = copy.copy(self)
        part._references = {n: one for n, one in self._references.items() if n in names}
        part._model = ArrayRecord()
        for name in part._references:
            part._model[name] = self._model[name]
        return part

    def whole(
        self, decoding: Decoding | None, records: Mapping[str, ArrayRecord], round: int
    ) -> Mapping[str, ArrayRecord]:
        """Return an update's records with the whole model in them, however it travelled.

        Raises AdmissionFault as `Decoding.decoded` does.
        """
        if decoding is None:
            return records
        return decoding.decoded(records, self._references, self._model, round)

    def is_of(self, model: ArrayRecord) -> bool:
        """Say whether these are the very same arrays, and not only equal ones."""
        return all(model.get(name) is array for name, array in self._model.items())

    def values_of(self, records: Mapping[str, ArrayRecord], extra: Layouts) -> Values:
        """Return the elements of an update; no array is read before all layouts are known to fit.

        Raises AdmissionFault MDW-611 to 613, of the model's arrays, or 674, of an algorithm's own.
        """
        model = records[protocol.ARRAYS]
        if model.keys() != self._references.keys():
            what = f"its arrays are not the model's: {difference_of(model, self._references)}"
            raise AdmissionFault("MDW-611", what)
        # In the model's order, so that all sketches of a round are of the same coordinates.
        values = {protocol.ARRAYS: _elements(model, self._references)}
        for record, layouts in extra.items():
            arrays = records[record]
            if arrays.keys() != layouts.keys():
                what = f"the arrays of {record!r:.80} are wrong: {difference_of(arrays, layouts)}"
                raise AdmissionFault("MDW-674", what)
            values[record] = _elements(arrays, layouts)
        return values

    def measured(self, values: Values, extra: Layouts, sketcher: Sketcher | None) -> Measured:
        """Return what one pass over an update's values finds, without a digest.

        Raises AdmissionFault MDW-614 at a value that is not finite.
        """
        pen = sketcher.begin() if sketcher else None
        squares = 0.0
        largest: dict[str, dict[str, float]] = {record: {} for record in values}
        for name, new in values[protocol.ARRAYS].items():
            old = self._references[name]
            as_change = name in self.as_change
            found = measure(name, old.dtype, new, old.values, pen, as_change=as_change)
            squares += found.squares
            largest[protocol.ARRAYS][name] = found.largest
        for record, layouts in extra.items():
            for name, new in values[record].items():
                # Against itself: there is nothing that it should be near to.
                largest[record][name] = measure(name, layouts[name].dtype, new, new).largest
        sketch = pen.drawn() if pen else None
        return Measured(squares, largest, sketch, sketcher.seed if sketcher else None)


def _elements(record: ArrayRecord, layouts: Mapping[str, ArrayLayout]) -> dict[str, np.ndarray]:
    return {name: layout.values_of(name, record[name]) for name, layout in layouts.items()}

"""Updates that travelled in a run's form (`strategies.compression.form`), made whole again.

Everything is known of what must be there before a value is read: names, types and shapes follow from
the model that was sent. What is decoded is the values that the silo's model has, as far as its form
could hold them; admission then looks at these as at any others.

    MDW-684 other arrays than the form has     MDW-685 what can't be decoded
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from flwr.app import Array, ArrayRecord

from server.round.array_layout import ArrayLayout, Reference, difference_of
from server.round.judgement import AdmissionFault
from strategies.compression.form import Form
from strategies.wire import protocol
from strategies.wire.half_types import Numbers, rounded
from strategies.wire.objects import in_place

Records = Mapping[str, ArrayRecord]


@dataclass(frozen=True)
class Decoding:
    """The form of a run's updates, as the server reads it."""

    form: Form

    @property
    def records(self) -> list[str]:
        """The records in which an update's model arrives."""
        coded = [] if self.form.codec is None else [protocol.CHANGE]
        return [protocol.ARRAYS, *coded]

    def decoded(
        self, records: Records, sent: Mapping[str, Reference], model: ArrayRecord, round: int
    ) -> dict[str, ArrayRecord]:
        """Return an update's records with the whole model in place of what travelled.

        `model` and `sent`, its elements, are the model as it was sent, without what the silos keep.
        Raises AdmissionFault MDW-684, MDW-685, or 612 and 613 of an array's layout.
        """
        layouts = {name: (one.dtype, one.shape) for name, one in sent.items()}
        coded = self.form.coded(layouts)
        whole = records[protocol.ARRAYS]
        expected = sent.keys() - coded.keys() - set(self.form.frozen)
        if whole.keys() != expected:
            what = f"its arrays are not those that travel whole: {difference_of(whole, expected)}"
            raise AdmissionFault("MDW-684", what)
        found = dict(whole)
        if self.form.codec is not None:
            found |= self._changed(records[protocol.CHANGE], sent, model, round)
        update = ArrayRecord()
        for name, as_sent in model.items():
            update[name] = found.get(name, as_sent)
        left = {n: r for n, r in records.items() if n != protocol.CHANGE}
        return left | {protocol.ARRAYS: update}

    def _changed(
        self,
        change: ArrayRecord,
        sent: Mapping[str, Reference],
        model: ArrayRecord,
        round: int,
    ) -> dict[str, Array]:
        """Return the arrays that were encoded."""
        assert self.form.codec is not None
        coded = self.form.coded({name: (one.dtype, one.shape) for name, one in sent.items()})
        layout = self.form.codec.layout(coded)
        if change.keys() != layout.keys():
            what = f"its change is not what was asked for: {difference_of(change, layout)}"
            raise AdmissionFault("MDW-684", what)
        # All of them before the first is looked at.
        arrays = {
            name: ArrayLayout(dtype, shape).values_of(name, change[name])
            for name, (dtype, shape) in layout.items()
        }
        found = {}
        try:
            for name, values in self.form.decoded(arrays, Numbers(model), coded, round):
                dtype = sent[name].dtype
                made = rounded(np.asarray(values), dtype)
                found[name] = in_place(dtype, sent[name].shape, made)
            return found
        except ValueError as why:
            raise AdmissionFault("MDW-685", f"its change can't be decoded: {why}") from None

"""What a worker measures of the updates that its silos make, with the server's own function.

The worker has the update and the model that it was made from in its cache, and several workers
measure at a time; the server's one thread then judges numbers. What can't be measured is left to the
server, which finds the fault itself.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

from flwr.app import ArrayRecord, ConfigRecord, Message

from server.round.array_layout import ArrayLayout
from server.round.decoding import Decoding
from server.round.judgement import AdmissionFault
from server.round.sent_model import Measured, SentModel
from server.round.sketch import Sketcher
from strategies.wire import protocol
from strategies.wire.digests import update_digest

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Measuring:
    """How updates are measured; with a seed their changes are sketched, and with a `decoding` they
    are made whole first.
    """

    sketch_seed: int | None
    decoding: Decoding | None = None


@dataclass(frozen=True)
class Asked:
    """What a training message holds: the round's model, and the number of the round."""

    model: SentModel
    round: int


class Measurer:
    """Measures the updates of one worker."""

    def __init__(self) -> None:
        self._sketcher: Sketcher | None = None
        self._bytes: list[tuple[str, bytes]] = []
        self._model: SentModel | None = None

    def asked_in(self, message: Message) -> Asked | None:
        """Return what a training message asks for, None for any other.

        To be called before the app has the message, which it may change.
        """
        if not message.metadata.message_type.startswith("train") or not message.has_content():
            return None
        arrays = protocol.records(message.content, ArrayRecord).get(protocol.ARRAYS)
        config = protocol.records(message.content, ConfigRecord).get(protocol.CONFIG)
        round = 0 if config is None else config.get(protocol.ROUND, 0)
        if arrays is None or not isinstance(round, int):
            return None
        try:
            return Asked(self._model_of(arrays), round)
        except Exception:
            log.debug("a model can't be measured from", exc_info=True)
            return None

    def measured(self, how: Measuring, asked: Asked | None, reply: Message) -> Measured | None:
        """Return what is measured of the update that answers a model; None where it is not what it
        must be.
        """
        if asked is None or reply.has_error():
            return None
        try:
            return self._measured(how, asked, protocol.records(reply.content, ArrayRecord))
        except AdmissionFault:
            return None
        except Exception:
            log.debug("an update can't be measured here", exc_info=True)
            return None

    def _measured(self, how: Measuring, asked: Asked, records: dict[str, ArrayRecord]) -> Measured:
        model_records = (protocol.ARRAYS, protocol.CHANGE)
        extra = {
            name: {n: ArrayLayout(a.dtype, tuple(a.shape)) for n, a in record.items()}
            for name, record in records.items()
            if name not in model_records
        }
        # Without what the silo keeps.
        leaving = list(records[protocol.ARRAYS])
        if how.decoding is not None:
            leaving = how.decoding.form.leaving(asked.model.names)
        model = asked.model.only(leaving)
        whole = model.whole(how.decoding, records, asked.round)
        values = model.values_of(whole, extra)
        measured = model.measured(values, extra, self._sketcher_of(how.sketch_seed))
        return replace(measured, digest=update_digest(records))

    def _model_of(self, arrays: ArrayRecord) -> SentModel:
        """Return a model, looked at once for all silos that were sent the same bytes."""
        # The pipe gives messages of one model the same bytes, and each an Array of its own.
        given = [(name, array.data) for name, array in arrays.items()]
        known = len(given) == len(self._bytes) and all(
            name == before and data is its
            for (name, data), (before, its) in zip(given, self._bytes, strict=True)
        )
        if self._model is None or not known:
            self._bytes = given
            self._model = SentModel(arrays)
        return self._model

    def _sketcher_of(self, seed: int | None) -> Sketcher | None:
        if seed is None:
            return None
        if self._sketcher is None or self._sketcher.seed != seed:
            self._sketcher = Sketcher(seed)
        return self._sketcher

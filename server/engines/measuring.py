"""What a worker measures of the updates that its silos make, with the server's own function.

The worker has the update and the model that it was made from in its cache, and several workers
measure at a time; the server's one thread then judges numbers. What can't be measured is left to the
server, which finds the fault itself.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

from flwr.app import ArrayRecord, Message

from server.round.array_layout import ArrayLayout
from server.round.judgement import AdmissionFault
from server.round.sent_model import Measured, SentModel
from server.round.sketch import Sketcher
from strategies.wire import protocol
from strategies.wire.digests import update_digest

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Measuring:
    """How updates are measured; with a seed their changes are sketched."""

    sketch_seed: int | None


class Measurer:
    """Measures the updates of one worker."""

    def __init__(self) -> None:
        self._sketcher: Sketcher | None = None
        self._bytes: list[tuple[str, bytes]] = []
        self._model: SentModel | None = None

    def model_in(self, message: Message) -> SentModel | None:
        """Return the model in a training message, None for any other.

        To be called before the app has the message, which it may change.
        """
        if not message.metadata.message_type.startswith("train") or not message.has_content():
            return None
        arrays = protocol.records(message.content, ArrayRecord).get(protocol.ARRAYS)
        try:
            return None if arrays is None else self._model_of(arrays)
        except Exception:
            log.debug("a model can't be measured from", exc_info=True)
            return None

    def measured(self, how: Measuring, sent: SentModel | None, reply: Message) -> Measured | None:
        """Return what is measured of the update that answers a model; None where it is not what it
        must be.
        """
        if sent is None or reply.has_error():
            return None
        try:
            return self._measured(how, sent, protocol.records(reply.content, ArrayRecord))
        except AdmissionFault:
            return None
        except Exception:
            log.debug("an update can't be measured here", exc_info=True)
            return None

    def _measured(
        self, how: Measuring, sent: SentModel, records: dict[str, ArrayRecord]
    ) -> Measured:
        extra = {
            name: {n: ArrayLayout(a.dtype, tuple(a.shape)) for n, a in record.items()}
            for name, record in records.items()
            if name != protocol.ARRAYS
        }
        # Without what the silo keeps.
        model = sent.only(records[protocol.ARRAYS])
        values = model.values_of(records, extra)
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

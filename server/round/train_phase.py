"""The training of one round: updates are asked for, judged, noted and aggregated.

MDW-401 too few updates
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass

from flwr.app import ArrayRecord, Message, MetricRecord
from flwr.serverapp.strategy import Strategy

from conf.errors import RoundError
from server.round.admission import Admitted, software_of
from server.round.error_text import reasons_of
from server.round.patience import closing_of
from server.round.phase import Phase, metrics_in
from server.round.receipt_check import Receipts
from server.round.replies import ReadOnce, in_order
from server.run.result import RoundRecord
from server.session import Session
from strategies.streaming import Streaming
from strategies.wire import protocol
from strategies.wire.digests import update_digest

Aggregate = tuple[ArrayRecord | None, MetricRecord | None]


@dataclass(frozen=True)
class TrainPhase:
    """How one round's updates become the strategy's aggregate."""

    session: Session
    strategy: Strategy
    phase: Phase
    receipts: Receipts
    clock: Callable[[], float] = time.monotonic

    def run(self, record: RoundRecord, messages: list[Message]) -> Aggregate:
        """Return the strategy's aggregate of the admitted updates; raises RoundError MDW-401."""
        closes = closing_of(self.session.conf.run, len(record.cohort))
        for message in messages:
            silo = self.phase.silos[message.metadata.dst_node_id]
            record.bytes_down[silo] = protocol.size(message.content)
        started = self.clock()
        # Closed in any case, so that a strategy that raises leaves no message open in the grid.
        with closing(self._updates(record, messages)) as updates:
            aggregate = self._aggregate(record.round, updates)
        training = max(record.seconds_training.values(), default=0.0)
        record.seconds_waiting = self.clock() - started - training
        record.replied.sort()
        if len(record.replied) < closes.quorum:
            raise self._too_few(record, closes.quorum)
        return aggregate

    def _aggregate(
        self, number: int, updates: Generator[tuple[str, Message], None, None]
    ) -> Aggregate:
        """Hand the updates to the strategy.

        One by one as they arrive, or all in the order of their silos' names.
        """
        if not isinstance(self.strategy, Streaming):
            return self.strategy.aggregate_train(number, in_order(updates))
        aggregate = self.strategy.aggregate_train(number, ReadOnce(updates, self.strategy))
        # A strategy may stop reading: the round is over when all have been heard, not before.
        # Otherwise silos that
        # answered in time would be called late, and the ledger would miss their updates.
        for _ in updates:
            pass
        return aggregate

    def _updates(
        self, record: RoundRecord, messages: list[Message]
    ) -> Generator[tuple[str, Message], None, None]:
        """Yield the admitted updates with their silos' names, each noted in record and ledger."""
        closes = closing_of(self.session.conf.run, len(record.cohort))
        for silo, reply, verdict in self.phase.judged(messages, closes, record):
            digest = update_digest(reply.content) if reply.has_content() else ""
            self.session.ledger.update(record.round, silo, verdict, digest)
            self._note_receipt(record.round, silo, reply, digest)
            if isinstance(verdict, Admitted):
                self._note_update(record, silo, reply, verdict)
                yield silo, reply
            # Let go before the wait for the next one: an update is as large as the model.
            del reply

    def _note_receipt(self, round: int, silo: str, reply: Message, digest: str) -> None:
        """Note what the silo signed of the ledger and of its update."""
        anchor = self.session.state.anchor
        expected = self.receipts.expected(silo, round, anchor, digest)
        self.receipts.take(reply.metadata.src_node_id, reply, expected)

    def _note_update(
        self, record: RoundRecord, silo: str, reply: Message, verdict: Admitted
    ) -> None:
        metrics = metrics_in(reply)
        record.replied.append(silo)
        record.train[silo] = dict(metrics)
        if verdict.norm is not None:
            record.train[silo]["update-norm"] = verdict.norm
        self._note_software(record, silo, reply)
        record.seconds_training[silo] = metrics.get(protocol.SECONDS, 0.0)
        record.bytes_up[silo] = protocol.size(reply.content)
        self.session.observer.reply(record.round, "train", silo, metrics)

    def _note_software(self, record: RoundRecord, silo: str, reply: Message) -> None:
        """Note what a silo says that it runs, at first and where it has changed."""
        said = software_of(reply.content)
        if said is None:
            return
        # The strategy gets what Flower's own silos send.
        del reply.content[protocol.SOFTWARE]
        facts = said.to_json()
        known = self.session.result.software
        if known.get(silo) == facts:
            return
        known[silo] = facts
        record.software[silo] = facts
        self.session.ledger.software(record.round, silo, facts)

    def _too_few(self, record: RoundRecord, quorum: int) -> RoundError:
        resume = f"run.resume={self.session.folder.known_as}"
        return RoundError(
            "MDW-401",
            f"Round {record.round} has {len(record.replied)} of the {quorum} updates it needs"
            f" ({reasons_of(record.failed)}).",
            f"Fix the silos, then resume with {resume}; where fewer silos are to do,"
            " resume with a lower run.quorum.",
        )

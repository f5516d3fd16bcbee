"""The training of one round: updates are asked for, judged, noted and aggregated.

MDW-401 too few updates
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, replace

from flwr.app import Message, RecordDict
from flwr.serverapp.strategy import Strategy

from conf.errors import RoundError, WireError
from server.round.aggregation import Aggregate, Aggregation, beyond_the_cohort
from server.round.error_text import reasons_of
from server.round.exchange import Closing
from server.round.gate import COHORT
from server.round.judgement import Admitted
from server.round.mapped_replies import HELD, MappedReplies
from server.round.patience import closing_of
from server.round.phase import Phase
from server.round.receipt_check import Receipts
from server.round.silo_grid import SiloGrid
from server.round.silo_noise import SiloNoise
from server.round.updates import Updates
from server.run.movement import NORM
from server.run.result import RoundRecord
from server.session import Session
from strategies.algorithm import Algorithm
from strategies.cohort_rule import CohortRule
from strategies.spill import clear
from strategies.streaming import Streaming
from strategies.wire import protocol


@dataclass(frozen=True)
class TrainPhase:
    """How one round's updates become the strategy's aggregate."""

    session: Session
    strategy: Strategy
    phase: Phase
    receipts: Receipts
    rewind: Callable[[], None]
    """Puts the strategy back to where it was before it saw an update."""
    noise: SiloNoise | None = None
    """Of silo-level privacy."""
    clock: Callable[[], float] = time.monotonic

    def run(self, record: RoundRecord, messages: list[Message]) -> Aggregate:
        """Return the strategy's aggregate of the admitted updates; raises RoundError MDW-401."""
        closes = self._closing(len(record.cohort))
        for message in messages:
            silo = self.phase.silos[message.metadata.dst_node_id]
            grid = self.phase.grid
            told = grid.bytes_of(message) if isinstance(grid, SiloGrid) else None
            record.bytes_down[silo] = protocol.size(message.content) if told is None else told
        started = self.clock()
        noted = Updates(self.session, record, self.noise)
        # Closed in any case, so that a strategy that raises leaves no message open in the grid.
        with closing(self._updates(noted, messages)) as updates:
            aggregate = self._aggregate(updates, noted)
        training = max(record.seconds_training.values(), default=0.0)
        record.seconds_waiting = self.clock() - started - training
        noted.close(self.strategy.shares if isinstance(self.strategy, CohortRule) else None)
        if len(record.replied) < closes.quorum:
            raise self._too_few(record, closes.quorum)
        return aggregate

    def _closing(self, cohort: int) -> Closing:
        """Return when the training closes: with no fewer updates than the strategy can use."""
        closes = closing_of(self.session.conf.run, cohort)
        if not isinstance(self.strategy, Algorithm):
            return closes
        return replace(closes, quorum=max(closes.quorum, self.strategy.fewest))

    def _aggregate(
        self, updates: Generator[tuple[str, Message], None, None], noted: Updates
    ) -> Aggregate:
        """Hand the updates to the strategy.

        One by one as they arrive, or all in the order of their silos' names.
        """
        sent = self.session.state.arrays
        round = noted.record.round
        aggregation = Aggregation(
            self.strategy, round, sent, noted.refuse, self.rewind, noted.largest
        )
        if isinstance(self.strategy, Streaming):
            return aggregation.of_stream(updates)
        try:
            return self._of_list(updates, noted, aggregation)
        finally:
            clear(self.session.folder.path / HELD)

    def _of_list(
        self,
        updates: Generator[tuple[str, Message], None, None],
        noted: Updates,
        aggregation: Aggregation,
    ) -> Aggregate:
        held = self._list_of(updates, len(noted.record.cohort))
        for silo, why in self._beyond_the_cohort(noted.record, list(held)).items():
            noted.refuse(silo, why)
            del held[silo]
        return aggregation.of_list(held) if held else (None, None)

    def _list_of(
        self, updates: Generator[tuple[str, Message], None, None], cohort: int
    ) -> dict[str, Message]:
        """Return all updates by silo, those of a large round in files."""
        nbytes = protocol.size(RecordDict({protocol.ARRAYS: self.session.state.arrays}))
        files = MappedReplies(self.session.folder.path / HELD, cohort, nbytes)
        held = {}
        for silo, reply in updates:
            held[silo] = files.held(reply)
        return held

    def _beyond_the_cohort(self, record: RoundRecord, silos: list[str]) -> dict[str, WireError]:
        asked = self.session.conf.run.admission
        if asked.norm_times_median is None or asked.norm_median != COHORT:
            return {}
        norms = {silo: record.train[silo][NORM] for silo in silos}
        return beyond_the_cohort(norms, asked.norm_times_median)

    def _updates(
        self, noted: Updates, messages: list[Message]
    ) -> Generator[tuple[str, Message], None, None]:
        """Yield the admitted updates with their silos' names, each noted in record and ledger."""
        record = noted.record
        closes = self._closing(len(record.cohort))
        for silo, reply, verdict in self.phase.judged(messages, closes, record):
            noted.note(silo, verdict)
            self._note_receipt(record.round, silo, reply, verdict.digest)
            if isinstance(verdict, Admitted):
                noted.note_admitted(silo, reply, verdict)
                yield silo, reply
            # Let go before the wait for the next one: an update is as large as the model.
            del reply

    def _note_receipt(self, round: int, silo: str, reply: Message, digest: str) -> None:
        """Note what the silo signed of the ledger and of its update."""
        anchor = self.session.state.anchor
        expected = self.receipts.expected(silo, round, anchor, digest)
        self.receipts.take(reply.metadata.src_node_id, reply, expected)

    def _too_few(self, record: RoundRecord, quorum: int) -> RoundError:
        resume = f"run.resume={self.session.folder.known_as}"
        return RoundError(
            "MDW-401",
            f"Round {record.round} has {len(record.replied)} of the {quorum} updates it needs"
            f" ({reasons_of(record.failed)}).",
            f"Fix the silos, then resume with {resume}; where fewer silos are to do,"
            " resume with a lower run.quorum.",
        )

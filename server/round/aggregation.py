"""A round's admitted updates in a strategy's hands, and what becomes of one that it can't take.

A strategy is code of anybody: it may raise, or make values of good updates that are none. Where it
holds a list, the update that it fails for is found by trying again, and refused; the round goes on
with the others. One that reads a stream gives an update back (`strategies.streaming.Replies`), or
is told by the name of the update that it had in its hands.

    MDW-407 a strategy that fails, whoever's update is left out
    MDW-408 a streaming strategy that raised
    MDW-622 an update for which the strategy fails
    MDW-626 a norm above so many times the median of its own cohort's
"""

from __future__ import annotations

import logging
import math
import statistics
from collections.abc import Callable, Generator, Mapping
from copy import copy, deepcopy
from dataclasses import dataclass

from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import Strategy

from conf.errors import Interrupted, MeadowError, RoundError, WireError
from server.round.dry_aggregation import faults_of
from server.round.replies import ReadOnce
from server.round.sent_model import Largest

log = logging.getLogger(__name__)

Aggregate = tuple[ArrayRecord | None, MetricRecord | None]
Refuse = Callable[[str, MeadowError], None]
"""Takes the update of a silo out of the round, with the reason."""
Updates = Generator[tuple[str, Message], None, None]
"""Admitted updates with their silos' names, as they arrive."""


def _nothing_known(silo: str) -> Largest:
    return {}


@dataclass(frozen=True)
class Aggregation:
    """One round's aggregation by a strategy.

    `sent` is the model of the round. `refuse` is called for an update that can't be part of it, and
    `rewind` puts the strategy back to where it was before the first attempt.
    """

    strategy: Strategy
    round: int
    sent: ArrayRecord
    refuse: Refuse
    rewind: Callable[[], None]
    largest: Callable[[str], Largest] = _nothing_known
    """Says of an admitted update, by its silo's name, how large it is."""

    def of_stream(self, updates: Updates) -> Aggregate:
        """Return what a streaming strategy makes of the updates, each handed over as it arrives.

        Raises RoundError MDW-408 where the strategy raises anything but an error of Meadow's, and
        MDW-407 for a model that can't be sent.
        """
        reader = ReadOnce(updates, self.strategy, self.refuse, self.largest)
        try:
            aggregate = self.strategy.aggregate_train(self.round, reader)
        except Exception as error:
            # What the round itself raised, while it waited for an update, is no fault of the
            # strategy's.
            if isinstance(error, MeadowError) or error is reader.raised:
                raise
            log.exception("%s raised", self._name)
            raise self._raised_in_hand(error, reader) from error
        # A strategy may stop reading: the round is over when all have been heard, not before.
        # Otherwise silos that answered in time would be called late, and the ledger would miss
        # their updates.
        for _ in updates:
            pass
        fault = self._fault_of(aggregate)
        if fault is not None:
            raise self._fails(fault)
        return aggregate

    def of_list(self, updates: Mapping[str, Message]) -> Aggregate:
        """Return what a strategy makes of a list of the updates, in the order of the silos' names.

        An update for which it fails is refused. Raises RoundError MDW-407 where it fails whichever
        single update is left out.
        """
        tried = self._attempt(updates)
        if isinstance(tried, tuple):
            return tried
        log.warning("%s: %s; looking for the update that it fails for", self._name, tried)
        for guilty in self._suspects(updates):
            left = {silo: reply for silo, reply in updates.items() if silo not in guilty}
            again = self._attempt_again(left)
            if not isinstance(again, tuple):
                continue
            for silo in guilty:
                what = f"{self._name} fails with this update ({tried}), and not without it."
                self.refuse(silo, WireError("MDW-622", what, "Look at the silo's data and scale."))
            return again
        raise self._fails(tried)

    def _suspects(self, updates: Mapping[str, Message]) -> list[list[str]]:
        """Return groups of silos to leave out, those who fail alone first; nobody where one is all."""
        silos = list(updates)
        if len(silos) < 2:
            return []
        alone = [
            silo
            for silo in silos
            if not isinstance(self._attempt_again({silo: updates[silo]}), tuple)
        ]
        groups = [[silo] for silo in silos]
        if 0 < len(alone) < len(silos):
            groups.insert(0, alone)
        return groups

    def _attempt_again(self, updates: Mapping[str, Message]) -> Aggregate | str:
        self.rewind()
        return self._attempt(updates)

    def _attempt(self, updates: Mapping[str, Message]) -> Aggregate | str:
        """Return the aggregate of these updates, or in words what is wrong with it."""
        replies = [copied(updates[silo]) for silo in sorted(updates)]
        try:
            aggregate = self.strategy.aggregate_train(self.round, replies)
        except Interrupted:
            # SIGTERM raises it wherever this thread happens to be.
            raise
        except Exception as error:
            log.info("%s raised", self._name, exc_info=error)
            return f"it raised {type(error).__name__}"
        return self._fault_of(aggregate) or aggregate

    def _fault_of(self, aggregate: Aggregate) -> str | None:
        model, _ = aggregate
        if model is None:
            return None
        fault = next(faults_of(self.sent, model), None)
        return None if fault is None else f"its model can't be sent: {fault}"

    @property
    def _name(self) -> str:
        # Of one that Meadow hosts, the name that its user knows.
        return type(getattr(self.strategy, "inner", self.strategy)).__name__

    def _fails(self, fault: str) -> RoundError:
        return RoundError(
            "MDW-407",
            f"Round {self.round}: the strategy {self._name} fails, and no single update is the"
            f" cause ({fault}).",
            "Correct the strategy or its arguments; the server's log has what it raised.",
        )

    def _raised_in_hand(self, error: Exception, reader: ReadOnce) -> RoundError:
        held = "before it read an update"
        if reader.last is not None:
            held = f"with the update of {reader.last} in its hands, number {reader.count}"
        return RoundError(
            "MDW-408",
            f"Round {self.round}: the strategy {self._name} raised {type(error).__name__} {held}.",
            "Correct the strategy, or have it refuse what it can't take (`Replies.refuse`); the"
            " server's log has what it raised.",
        )


def beyond_the_cohort(norms: Mapping[str, float], times: float) -> dict[str, WireError]:
    """Return by silo the reason to refuse it, where its norm is above `times` the median of the
    cohort's norms. All updates are held by then: that many times the model's bytes.
    """
    finite = [norm for norm in norms.values() if math.isfinite(norm)]
    if not finite:
        return {}
    median = statistics.median(finite)
    found: dict[str, WireError] = {}
    for silo, norm in norms.items():
        if norm > times * median:
            what = (
                f"Its change has the norm {norm:.4g}, more than {times:.4g} times {median:.4g}, the"
                " median of the round's updates."
            )
            found[silo] = WireError("MDW-626", what, "Look at the silo's data and scale.")
    return found


def copied(reply: Message) -> Message:
    """Return a reply whose records may be changed; the arrays are the same."""
    content = RecordDict()
    for name, record in reply.content.items():
        content[name] = (
            _same_arrays(record) if isinstance(record, ArrayRecord) else deepcopy(record)
        )
    made = copy(reply)
    made.content = content
    return made


def _same_arrays(record: ArrayRecord) -> ArrayRecord:
    # Not its constructor, which would write out an array that lies in several buffers.
    made = ArrayRecord()
    for name, array in record.items():
        made[name] = array
    return made

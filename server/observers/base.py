"""Who watches a run: the round loop tells its observers what happened and knows none of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from server.run.result import FinalTest, Metrics, RoundRecord, RunResult


@dataclass(frozen=True)
class PresenceChange:
    """Which silos of a run have `gone` and which are `back`; whether the `quorum` of a round was
    `lost` or is `back`, empty where neither; and how it is now.
    """

    gone: list[str]
    back: list[str]
    quorum: str
    connected: int
    needed: int
    missing: list[str]


class Observer:
    """Progress display, metrics file, MLflow: each is told the same things, in this order.

    It does nothing with them unless it overrides a method.
    """

    def run_started(self, result: RunResult, rounds: int) -> None:
        """`result` holds the run's names and the rounds already done, if it was resumed.

        `rounds` is the goal.
        """

    def round_started(self, round: int, cohort: list[str]) -> None:
        """The cohort has been asked."""

    def reply(self, round: int, phase: str, silo: str, metrics: Metrics) -> None:
        """A silo's reply was admitted; `phase` is train, evaluate or, after the rounds, test."""

    def round_closing(self, record: RoundRecord) -> None:
        """The round is aggregated; with the checkpoint that is written next it counts."""

    def round_closed(self, record: RoundRecord) -> None:
        """The round is aggregated and its checkpoint written."""

    def presence(self, change: PresenceChange) -> None:
        """Silos have gone or are back; told by another thread, in the middle of a round."""

    def model_tested(self, test: FinalTest) -> None:
        """The rounds are done, and the run's model was evaluated on the silos' test splits."""

    def silos_tried(self, table: list[str]) -> None:
        """Before round 1 of `task=smoke`: what works at each silo, as lines of a table."""

    def baselines_started(self, models: list[str]) -> None:
        """The rounds are done; models without a federation are trained for comparison."""

    def run_finished(self, result: RunResult) -> None:
        """The run ended, well or not; `result.status` says how."""

    def close(self) -> None:
        """The run is left, however it ended: let go of processes and files. May come twice."""


class Observers(Observer):
    """Tells several observers one after another."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._all = list(observers)

    def run_started(self, result: RunResult, rounds: int) -> None:
        """See `Observer`."""
        for observer in self._all:
            observer.run_started(result, rounds)

    def round_started(self, round: int, cohort: list[str]) -> None:
        """See `Observer`."""
        for observer in self._all:
            observer.round_started(round, cohort)

    def reply(self, round: int, phase: str, silo: str, metrics: Metrics) -> None:
        """See `Observer`."""
        for observer in self._all:
            observer.reply(round, phase, silo, metrics)

    def round_closing(self, record: RoundRecord) -> None:
        """See `Observer`."""
        for observer in self._all:
            observer.round_closing(record)

    def round_closed(self, record: RoundRecord) -> None:
        """See `Observer`."""
        for observer in self._all:
            observer.round_closed(record)

    def presence(self, change: PresenceChange) -> None:
        """See `Observer`."""
        for observer in self._all:
            observer.presence(change)

    def model_tested(self, test: FinalTest) -> None:
        """See `Observer`."""
        for observer in self._all:
            observer.model_tested(test)

    def silos_tried(self, table: list[str]) -> None:
        """See `Observer`."""
        for observer in self._all:
            observer.silos_tried(table)

    def baselines_started(self, models: list[str]) -> None:
        """See `Observer`."""
        for observer in self._all:
            observer.baselines_started(models)

    def run_finished(self, result: RunResult) -> None:
        """See `Observer`."""
        for observer in self._all:
            observer.run_finished(result)

    def close(self) -> None:
        """See `Observer`."""
        for observer in self._all:
            observer.close()

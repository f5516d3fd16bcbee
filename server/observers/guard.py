"""What watches a run never ends it: an observer that fails is told of once, and left out from then on."""

from __future__ import annotations

import logging
from collections.abc import Callable

from server.observers.base import Observer, PresenceChange
from server.run.result import FinalTest, Metrics, RoundRecord, RunResult

log = logging.getLogger(__name__)


class Guarded(Observer):
    """One observer of which nothing that a run needs depends: a display, a service elsewhere."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._failed = False

    def run_started(self, result: RunResult, rounds: int) -> None:
        """See `Observer`."""
        self._tell(lambda: self._observer.run_started(result, rounds))

    def round_started(self, round: int, cohort: list[str]) -> None:
        """See `Observer`."""
        self._tell(lambda: self._observer.round_started(round, cohort))

    def reply(self, round: int, phase: str, silo: str, metrics: Metrics) -> None:
        """See `Observer`."""
        self._tell(lambda: self._observer.reply(round, phase, silo, metrics))

    def round_closing(self, record: RoundRecord) -> None:
        """See `Observer`."""
        self._tell(lambda: self._observer.round_closing(record))

    def round_closed(self, record: RoundRecord) -> None:
        """See `Observer`."""
        self._tell(lambda: self._observer.round_closed(record))

    def presence(self, change: PresenceChange) -> None:
        """See `Observer`."""
        self._tell(lambda: self._observer.presence(change))

    def model_tested(self, test: FinalTest) -> None:
        """See `Observer`."""
        self._tell(lambda: self._observer.model_tested(test))

    def silos_tried(self, table: list[str]) -> None:
        """See `Observer`."""
        self._tell(lambda: self._observer.silos_tried(table))

    def baselines_started(self, models: list[str]) -> None:
        """See `Observer`."""
        self._tell(lambda: self._observer.baselines_started(models))

    def run_finished(self, result: RunResult) -> None:
        """See `Observer`."""
        self._tell(lambda: self._observer.run_finished(result))

    def close(self) -> None:
        """See `Observer`; an observer that failed is closed as well."""
        self._failed = False
        self._tell(self._observer.close)

    def _tell(self, tell: Callable[[], None]) -> None:
        if self._failed:
            return
        try:
            tell()
        # A console of rich's ends the program where nobody reads it any more.
        except (Exception, SystemExit) as error:
            self._failed = True
            # Its text may be anything, an address with a token in it too.
            log.warning(
                "%s, which watches the run, failed (%s) and is left out; the run goes on",
                type(self._observer).__name__,
                type(error).__name__,
            )

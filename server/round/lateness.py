"""Which silos give no answer round after round: each single round closes well without them, so that
only the sequence shows it.
"""

from __future__ import annotations

import logging

from server.run.absence import TOLD_ROUNDS, WHAT
from server.run.result import RoundRecord

log = logging.getLogger(__name__)


class Lateness:
    """Counts, by silo, the rounds in a row without an answer, and the last reason's code."""

    def __init__(self) -> None:
        self._rounds: dict[str, int] = {}
        self._codes: dict[str, str] = {}

    def take(self, record: RoundRecord) -> None:
        """Take in a closed round; silos that were not in its cohort keep their counts."""
        for silo in record.cohort:
            code = record.codes.get(silo, "")
            if code not in WHAT or silo in record.replied:
                self._rounds.pop(silo, None)
                self._codes.pop(silo, None)
                continue
            rounds = self._rounds.get(silo, 0) + 1
            self._rounds[silo] = rounds
            self._codes[silo] = code
            if rounds % TOLD_ROUNDS == 0:
                log.warning(
                    "%s: %s, for %d rounds in a row: %s", code, silo, rounds, record.failed[silo]
                )

    def said(self) -> dict[str, str]:
        """Return of each silo that was named what there is to say, in a few words."""
        return {
            silo: f"{WHAT[self._codes[silo]]} in the last {rounds} rounds ({self._codes[silo]})"
            for silo, rounds in sorted(self._rounds.items())
            if rounds >= TOLD_ROUNDS
        }

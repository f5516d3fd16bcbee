"""What a central score gives, and that one which fails ends nothing: the round's silos have trained.

MDW-365 a model that the server could not score
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final, TypeVar

from flwr.app import ArrayRecord

from client.sums import Sums
from conf.errors import Interrupted, MeadowError, SiloError
from server.round.error_text import plain_reason
from server.run.result import Metrics
from server.scoring.central import Begun

T = TypeVar("T")

log = logging.getLogger(__name__)

Pending = Callable[[], Metrics]
Score = Callable[[ArrayRecord], Pending]
"""Begins to score a model; what it returns waits for the metrics."""
NOTHING: Final[Metrics] = {}


class Scored:
    """A score that was begun, or could not be."""

    def __init__(self, score: Score | None, arrays: ArrayRecord) -> None:
        """Begin to score a model; without a `score` there is nothing to it."""
        self._pending: Pending | None = None
        self.why = ""
        """Why there are no metrics, with the code; empty where there are, or none are wanted."""
        if score is not None:
            self._pending = self._tried(lambda: score(arrays))

    def metrics(self, round: int) -> Metrics:
        """Wait for the metrics; there are none where it failed, which is logged for the round."""
        found = self._tried(self._pending) if self._pending is not None else None
        if self.why:
            log.warning("round %d: %s", round, self.why)
        return NOTHING if found is None else found

    @property
    def sums(self) -> Sums | None:
        """What the metrics are made of; None where there are none, or the score does not say."""
        if isinstance(self._pending, Begun) and not self.why:
            return self._pending.sums
        return None

    def _tried(self, action: Callable[[], T]) -> T | None:
        try:
            return action()
        except Interrupted:
            raise
        except Exception as error:
            log.info("the model could not be scored", exc_info=error)
            said = str(error) if isinstance(error, MeadowError) else _said(error)
            self.why = str(
                SiloError(
                    "MDW-365",
                    f"The server could not score the model on the task's own test set: {said}",
                    "The round counts all the same; look at federation.orchestrator.device.",
                )
            )
            return None


def _said(error: Exception) -> str:
    return plain_reason(f"{type(error).__name__}: {error}")

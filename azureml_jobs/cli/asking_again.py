"""How long a command that waits bears that Azure is not reached, and when it asks again."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from azureml_jobs.backends.base import Backend
from azureml_jobs.identity.azure_meanings import UNREACHED, Throttled
from conf.errors import MeadowError

PATIENCE_SECONDS: Final = 300.0
"""For which it bears that nothing is reached; a training goes on meanwhile."""
NOT_REACHED: Final = (*UNREACHED, "MDW-515")
"""Codes of a service and of a store that may be there again when they are asked once more."""


class Patience:
    """Of one thing that is asked again and again."""

    def __init__(self, backend: Backend, clock: Callable[[], float] = time.monotonic) -> None:
        self._bears = not backend.files_here
        self._pauses = backend.pauses()
        self._clock = clock
        self._answered = clock()
        self._asked_for: float | None = None

    def answered(self, *, news: bool = False) -> None:
        """Note an answer; `news` in it make more of them likely, so the next pause is short."""
        self._answered = self._clock()
        self._asked_for = None
        if news:
            self._pauses.begin_again()

    def bear(self, error: MeadowError) -> None:
        """Note an error that may be over in a moment; raises any other, and one that lasts.

        Throttling is borne without end: Azure is there, and says when to ask again.
        """
        if not self._bears or error.code not in NOT_REACHED:
            raise error
        if isinstance(error, Throttled):
            self._asked_for = error.seconds
        elif self._clock() - self._answered > PATIENCE_SECONDS:
            raise error

    def pause(self) -> float:
        """Return for how many seconds to wait now."""
        return self._pauses.next(self._asked_for)

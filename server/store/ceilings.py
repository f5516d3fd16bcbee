"""How many examples each silo may say that it has: the terms of its admission."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from azureml_jobs.identity.admitted_key import AdmittedKey
from conf.errors import MeadowError
from server.store.admitted_keys import AdmittedKeys

log = logging.getLogger(__name__)

EXAMPLES: Final = "examples_at_most"
"""The name of the limit in a signed admission."""
SECONDS: Final = 30.0
"""Between two looks at the list, which may be far away: a round may take less."""


class Ceilings:
    """Reads the examples ceilings of the admitted keys, at most every `SECONDS`."""

    def __init__(
        self, keys: AdmittedKeys | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._keys = keys
        self._clock = clock
        self._read_at = float("-inf")
        self._found: dict[str, int] = {}

    def __call__(self) -> Mapping[str, int]:
        """Return the ceilings by silo, of those whose admission has one.

        Of a silo with two keys, while one takes the other's place, the one that was admitted last.
        """
        now = self._clock()
        if self._keys is not None and now - self._read_at >= SECONDS:
            self._read_at = now
            try:
                self._found = _ceilings_of(self._keys.current_keys())
            except MeadowError as error:
                # A store that can't be read for a moment must not end a run.
                log.warning("the ceilings of the admitted keys stay as they were: %s", error)
        return self._found


def _ceilings_of(keys: Iterable[AdmittedKey]) -> dict[str, int]:
    found: dict[str, int] = {}
    for key in sorted(keys, key=lambda one: one.since):
        found.pop(key.silo, None)
        most = key.limits.get(EXAMPLES)
        if most is not None and math.isfinite(most):
            found[key.silo] = int(most)
    return found

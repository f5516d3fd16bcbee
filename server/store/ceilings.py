"""How many examples each silo may say that it has: the terms of its admission, and its owner's note."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, Final

from azureml_jobs.identity.owner_note import OwnerNote, ceiling_of
from conf.errors import MeadowError
from server.store.admitted_keys import AdmittedKeys
from server.store.owner_notes import OwnerNotes

log = logging.getLogger(__name__)

SECONDS: Final = 30.0
"""Between two looks at the list, which may be far away: a round may take less."""


class Ceilings:
    """Reads the examples ceilings of the admitted keys, at most every `SECONDS`."""

    def __init__(
        self,
        keys: AdmittedKeys | None,
        notes: OwnerNotes | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._keys = keys
        self._notes = notes
        self._clock = clock
        self._read_at = float("-inf")
        self._found: dict[str, int] = {}
        self._noted: dict[str, OwnerNote] = {}

    def __call__(self) -> Mapping[str, int]:
        """Return the ceilings by silo, of those that have one.

        Of a silo with two keys, while one takes the other's place, the one that was admitted last.
        """
        now = self._clock()
        if self._keys is not None and now - self._read_at >= SECONDS:
            self._read_at = now
            try:
                self._look(self._keys)
            except MeadowError as error:
                # A store that can't be read for a moment must not end a run.
                log.warning("the ceilings of the admitted keys stay as they were: %s", error)
        return self._found

    def facts(self) -> Mapping[str, Mapping[str, Any]]:
        """Return by silo the note of its owner that counts, as the ledger keeps it."""
        return {silo: asdict(note) for silo, note in self._noted.items()}

    def _look(self, keys: AdmittedKeys) -> None:
        found: dict[str, int] = {}
        notes: dict[str, OwnerNote] = {}
        last = {key.silo: key for key in sorted(keys.current_keys(), key=lambda one: one.since)}
        for silo, key in last.items():
            note = self._notes.followed(key) if self._notes is not None else None
            most = ceiling_of(key, note)
            if most is not None:
                found[silo] = most
            if note is not None:
                notes[silo] = note
        self._found = found
        self._noted = notes

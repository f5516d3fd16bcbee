"""The notes of silos' owners: handed in at the place of the admissions, kept in the orchestrator's own.

Each is an entry that never changes, named by its key and number. Who may write there can hand in
what an owner signed, and can take it away again: so the orchestrator keeps the last that it saw.

    MDW-725 a note that does not count    MDW-726 an older one than the one that counts
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from typing import Final

from azureml_jobs.identity.admitted_key import AdmittedKey
from azureml_jobs.identity.owner_note import OwnerNote, check_note, read_note
from azureml_jobs.storage.base import Store, StoreMissing
from conf.errors import IdentityError, MeadowError

log = logging.getLogger(__name__)

HANDED_IN: Final = "keys/notes/"
KEPT: Final = "notes/"
_DIGITS: Final = 20


class OwnerNotes:
    """Notes of owners in a store; `clock` in seconds since 1970."""

    def __init__(self, store: Store, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock
        self._refused: set[str] = set()

    def accept(self, note: OwnerNote, key: AdmittedKey) -> None:
        """Hand in a note of an admitted key's owner.

        Raises IdentityError MDW-725 where it does not count, MDW-726 where a later one does.
        """
        check_note(note, key, self._clock(), "It")
        before = self.last(key)
        if before is not None and before.number >= note.number and before != note:
            what = f"{key.silo} has a note with a higher number: {before.number}."
            hint = "Have its owner write another; a clock that goes back gives lower numbers."
            raise IdentityError("MDW-726", what, hint)
        name = f"{_digest(key)}-{note.number:0{_DIGITS}d}.json"
        self._store.put_if_absent(HANDED_IN + name, note.to_text().encode())

    def followed(self, key: AdmittedKey) -> OwnerNote | None:
        """Return the note that counts for a key, and keep it: one that was seen is not lost, and
        an older one never counts again.
        """
        note = self.last(key)
        if note is not None and note != self._kept(key):
            self._store.replace(_kept_name(key), note.to_text().encode())
            log.info(
                "%s: its owner says that an update of it counts %d examples at most (note %d)",
                key.silo,
                note.examples_at_most,
                note.number,
            )
        return note

    def last(self, key: AdmittedKey) -> OwnerNote | None:
        """Return the note with the highest number of those that count, kept ones too."""
        prefix = f"{HANDED_IN}{_digest(key)}-"
        found = [self._read(name, key) for name in sorted(self._store.list(prefix))[-8:]]
        good = [note for note in [*found, self._kept(key)] if note is not None]
        return max(good, key=lambda note: note.number, default=None)

    def _kept(self, key: AdmittedKey) -> OwnerNote | None:
        return self._read(_kept_name(key), key)

    def _read(self, name: str, key: AdmittedKey) -> OwnerNote | None:
        """Return a note that counts; None for any other, which is told in the log once."""
        try:
            note = read_note(self._store.read(name), name)
            check_note(note, key, self._clock(), name)
        except StoreMissing:
            return None
        except MeadowError as error:
            if name not in self._refused:
                self._refused.add(name)
                log.warning("%s", error)
            return None
        return note


def _digest(key: AdmittedKey) -> str:
    return hashlib.sha256(key.line.encode()).hexdigest()


def _kept_name(key: AdmittedKey) -> str:
    return f"{KEPT}{_digest(key)}.json"

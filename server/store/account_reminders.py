"""What each silo's account was when it last answered, kept for the silo, which alone can read it.

A silo's account says what its releases have cost. One that was put back from an old copy, signatures
and all, looks whole to the silo: only another party remembers that there was more. So with each
update of a private run the silo gives a reminder of its account, and is shown it when it is asked
again, in this run or a later one. It is a digest and the silo's own code over it
(`client.privacy.account`): nothing can be learned from it here, and nobody else can make one.
"""

from __future__ import annotations

import re
from typing import Final

from azureml_jobs.storage.base import Store, StoreMissing

FOLDER: Final = "reminders/"
_FORM: Final = re.compile("[0-9a-f]{64}:[0-9a-f]{64}")


class AccountReminders:
    """Reminders by silo, in a store that outlives a run; without one, for as long as a run lasts."""

    def __init__(self, store: Store | None = None) -> None:
        self._store = store
        self._known: dict[str, str] = {}

    def of(self, silo: str) -> str:
        """Return the last reminder of a silo, empty where there is none."""
        if silo not in self._known:
            self._known[silo] = self._stored(silo)
        return self._known[silo]

    def keep(self, silo: str, reminder: str) -> None:
        """Keep a reminder in place of the one before; anything else that a silo may send is none."""
        if not _FORM.fullmatch(reminder) or reminder == self.of(silo):
            return
        if self._store is not None:
            self._store.replace(_name(silo), reminder.encode())
        self._known[silo] = reminder

    def _stored(self, silo: str) -> str:
        if self._store is None:
            return ""
        try:
            return self._store.read(_name(silo)).decode(errors="replace")
        except StoreMissing:
            return ""


def _name(silo: str) -> str:
    return f"{FOLDER}{silo}"

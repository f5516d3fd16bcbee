"""The renewals that an orchestrator has signed, in its own part of the store.

The list of admitted keys is its owner's to write; the orchestrator, which may only read it, keeps
what it adds beside it, one file a key.
"""

from __future__ import annotations

import logging
from typing import Final

from azureml_jobs.identity.admitted_key import AdmittedKey
from azureml_jobs.identity.renewal import Renewal, read_renewal, renewed_until
from azureml_jobs.storage.base import Store, StoreMissing
from conf.errors import MeadowError

log = logging.getLogger(__name__)

FOLDER: Final = "renewals/"


class Renewals:
    """Until when keys may connect by renewals; each file is read once, for its one writer is the
    orchestrator that reads it.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._until: dict[tuple[str, str], float] = {}

    def put(self, digest: str, renewal: Renewal) -> None:
        """Keep a renewal of the key with that digest, in the place of the one before."""
        self._store.replace(_name(digest), renewal.to_text().encode())
        self._until.clear()

    def until(self, digest: str, key: AdmittedKey, ca: bytes) -> float:
        """Return until when a key may connect: 0 where it has no renewal, or one that does not
        count, which is logged.

        `ca` is the PEM of the CAs of now.
        """
        known = digest, key.certificate
        if known not in self._until:
            self._until[known] = self._read(_name(digest), key, ca)
        return self._until[known]

    def forget(self) -> None:
        """Look at every renewal anew, because other CAs are trusted now."""
        self._until.clear()

    def _read(self, name: str, key: AdmittedKey, ca: bytes) -> float:
        try:
            renewal = read_renewal(self._store.read(name), name)
            return renewed_until(renewal, key, ca, name)
        except StoreMissing:
            return 0.0
        except MeadowError as error:
            # A renewal that can't be used costs the key its renewal, and nobody anything else.
            log.warning("%s", error)
            return 0.0


def _name(digest: str) -> str:
    return f"{FOLDER}{digest}.json"
